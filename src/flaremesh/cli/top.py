"""``flaremesh top``."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from flaremesh.cli.options import AsJson, Output, TopologyFile, Where, load, mesh_folder, print_json
from flaremesh.cli.outputs import terminal
from flaremesh.deploy.targets import TargetKind, target_of

_REFRESH_SECONDS = 1.0


def top(
    topology: TopologyFile,
    where: Where = TargetKind.LOCAL,
    output: Output = None,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print one page and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a mesh live: every site's progress, speed, loss, waiting and traffic. Ctrl-C ends it.

    Exit code: 1 where one look finds nobody who answers.
    """
    from rich.console import RenderableType
    from rich.live import Live

    from flaremesh.cli.interruption import until_interrupted
    from flaremesh.cli.screen import screen
    from flaremesh.deploy.watch.top import Watch

    if as_json and not once:
        raise typer.BadParameter("is for one look: give --once too", param_hint="--json")
    loaded = load(topology)
    watch = Watch(loaded, target_of(where, loaded, mesh_folder(loaded, output)), interval)
    console = terminal()
    commands = _Commands(topology, where, output)
    page: RenderableType = ""
    with until_interrupted():
        if once or not console.is_terminal:
            watch.wait(scrapes=2)
            view = watch.view()
            if as_json:
                print_json(asdict(view))
            else:
                console.print(screen(view, commands, console))
            raise typer.Exit(int(not view.up))
        with console.status(f"Asking {loaded.name}"):
            watch.wait(scrapes=1)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                page = screen(watch.view(), commands, console)
                live.update(page, refresh=True)
                time.sleep(_REFRESH_SECONDS)
    console.print(page)


@dataclass(frozen=True)
class _Commands:
    """Makes the line to type for a command on this mesh."""

    topology: Path
    where: TargetKind
    output: Path | None

    def __call__(self, command: str) -> str:
        target = "" if self.where is TargetKind.LOCAL else f" --target {self.where}"
        output = f" --output {self.output}" if self.output else ""
        return f"flaremesh {command} {self.topology}{target}{output}"
