"""``flaremesh sweep``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from flaremesh.cli.options import AsJson, load, name_code
from flaremesh.cli.outputs import terminal

if TYPE_CHECKING:
    from flaremesh.provision.sweep import Trial


def sweep(
    topology: Annotated[Path, typer.Argument(help="Topology file.")],
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="FIELD=VALUE,…",
            help="A field of the file and the values to try, e.g. run.stepsize=0.01,0.05; may be repeated.",
        ),
    ],
    until: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC=VALUE",
            help="Instead of run.until: end each run once all sites have reached it, e.g. accuracy=0.93.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try a grid of settings in the simulator, and print what came of each."""
    import torch

    from flaremesh.provision import sweep as sweeping

    loaded = load(topology, executes=True)
    if until is not None:
        loaded = sweeping.with_fields(loaded, {"run.until": _target(until)})
    fields = sweeping.combinations(dict(map(_field, vary)))
    trials = [sweeping.with_fields(loaded, each) for each in fields]
    name_code(loaded, topology.parent)
    torch.set_num_threads(1)  # sites take turns with small steps: threads would only wait for each other
    found: list[Trial] = []
    try:
        for trial in sweeping.sweep(trials, fields):
            found.append(trial)
            if not as_json:
                typer.echo(f"{len(found)} of {len(trials)}: {_words(trial)}", err=True)
    except KeyboardInterrupt as interrupt:
        interrupt.args = (f"Interrupted after {len(found)} of {len(trials)} runs.",)
        raise
    finally:  # what was found is worth its time
        if as_json:
            typer.echo(json.dumps([asdict(trial) for trial in found], indent=2))
        elif found:
            _show(found)
    if all(trial.metrics is None for trial in found):
        raise typer.Exit(1)


def _field(text: str) -> tuple[str, list[Any]]:
    path, separator, values = text.partition("=")
    if not (path and separator and values):
        raise typer.BadParameter(f"{text} is not FIELD=VALUE,VALUE,…", param_hint="--vary")
    try:
        return path, [yaml.safe_load(value) for value in values.split(",")]
    except yaml.YAMLError:
        raise typer.BadParameter(f"{values} are no values", param_hint="--vary") from None


def _target(text: str) -> dict[str, float]:
    metric, _, value = text.partition("=")
    try:
        return {metric: float(value)}
    except ValueError:
        raise typer.BadParameter(f"{text} is not METRIC=VALUE", param_hint="--until") from None


def _words(trial: "Trial") -> str:
    return ", ".join(f"{path} {value}" for path, value in trial.fields.items())


def _show(trials: Sequence["Trial"]) -> None:
    from rich import box
    from rich.table import Table

    names = sorted({name for trial in trials for name in trial.metrics or ()})
    paths = list(trials[0].fields)
    table = Table(*paths, "iterations", "MB sent", "consensus distance", *names, box=box.SIMPLE_HEAD)
    for trial in trials:
        metrics = trial.metrics or {}
        distance = trial.consensus_distance
        table.add_row(
            *map(str, trial.fields.values()),
            f"{trial.iterations}{', not reached' if trial.reached is False else ''}",
            f"{trial.sent_bytes / 1e6:.3g}",
            "" if distance is None else f"{distance:.3g}",
            *(f"{metrics[name]:.4g}" if name in metrics else "" for name in names),
        )
    screen = terminal(highlight=False)
    screen.print(table)
    for trial in trials:
        if trial.problem:
            screen.print(f"{_words(trial)}: {trial.problem}", markup=False)
