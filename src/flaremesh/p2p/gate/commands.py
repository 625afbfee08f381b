"""The commands of a site's own admin, with nothing but what a site has: ``flaremesh pending`` in its pod."""

import argparse
import getpass
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from flaremesh.errors import FlaremeshError
from flaremesh.p2p.gate import audit
from flaremesh.p2p.gate.approval import PENDING, Approvals, Pending
from flaremesh.p2p.gate.begun import MOST_DAYS, Begun
from flaremesh.printable import printable
from flaremesh.topology.schema import Privacy

WORKSPACE_VARIABLE: Final = "FLAREMESH_WORKSPACE"
"""Environment variable with the workspace of the site, where a command names none."""

_PROOF = ("sequence", "time", "event", "certificate", "previous", "signature")


class NoWorkspace(FlaremeshError):
    """There is no site's workspace where a command looks for one."""

    exit_code = 2


def pending(workspace: Path, as_json: bool) -> str:
    """The runs that wait for a person, with all that is known of them."""
    waiting = Approvals(workspace).waiting()
    if as_json:
        return json.dumps([PENDING.data(run) for run in waiting], indent=2)
    return "\n".join(line for run in waiting for line in _described(run)) or "no run waits for approval"


def _described(run: Pending) -> Iterator[str]:
    asked = run.request
    yield f"{asked.run}  waits since {run.asked:%Y-%m-%d %H:%M} UTC"
    for name, value in {
        "submitter": f"{asked.submitter}, {asked.role} of {asked.org}",
        "mesh": asked.mesh,
        "algorithm": asked.algorithm,
        "problem": asked.problem or "the algorithm's own",
        "sites": ", ".join(asked.sites) or "not said",
        "peers": ", ".join(asked.peers) or "none",
        "links": asked.links,
        **({"continues": f"{asked.continues}, from its checkpoints"} if asked.continues else {}),
        "privacy": _in_words(asked.privacy),
        "attempts": f"as many as it takes, for {MOST_DAYS} days" if asked.on_loss != "fail" else "one",
        "code": "flaremesh's own" if not asked.code else "",
    }.items():
        yield f"  {name:<10} {printable(value)}".rstrip()
    for path, sha256 in sorted(asked.code.items()):
        yield f"    {sha256}  {printable(path)}"


def _in_words(privacy: Privacy) -> str:
    if privacy.epsilon is None:
        return "no budget"
    unit = "all of the site's data" if privacy.examples is None else "an example"
    sigma = "" if privacy.sigma is None else f", sigma {privacy.sigma:.4g}"
    return f"ε {privacy.epsilon:g} (δ {privacy.delta:g}) of {unit}, {privacy.noise} noise{sigma}"


def approve(workspace: Path, run: str) -> str:
    """Approve a run in the name of who calls this."""
    approved = Approvals(workspace).approve(run, _person())
    return f"{run} of {printable(approved.request.submitter)} is approved by {approved.by}"


def deny(workspace: Path, run: str) -> str:
    """Deny a run, or its further attempts, in the name of who calls this."""
    person = _person()
    if submitter := Begun(workspace).deny(run, person):
        return (
            f"{run} of {printable(submitter)} is denied by {person}: it gets no further attempt here, and "
            "one that runs now goes on"
        )
    denied = Approvals(workspace).deny(run, person)
    return f"{run} of {printable(denied.request.submitter)} is denied by {denied.by}"


def show(workspace: Path, as_json: bool) -> str:
    """The audit log, a line for each event."""
    shown = [json.dumps(entry) if as_json else _line(entry) for entry in audit.entries(workspace)]
    if not as_json and (left_out := audit.unreadable(workspace)):
        shown.append(f"{left_out} further lines cannot be read: `flaremesh audit verify` says which")
    return "\n".join(shown)


def verify(workspace: Path, head: str | None, as_json: bool) -> str:
    """How far the audit log goes, if nothing is wrong with it."""
    verified = audit.verify(workspace, head)
    if as_json:
        return json.dumps(asdict(verified))
    torn = "".join(
        f"line {number} was torn when a process ended while it wrote, as the next line says\n"
        for number in verified.torn
    )
    return f"{torn}{verified.lines} lines, each signed by the site and in its place; head {verified.head}"


def workspace_at(folder: Path) -> Path:
    """The folder itself, if it is a site's workspace.

    Raises:
        NoWorkspace: it has no kit, or no site has started there.
    """
    if not (folder / "startup").is_dir():
        raise NoWorkspace(f"{folder} is no site's workspace: it has no kit. Name the folder that has it.")
    if not (folder / audit.GATE_FOLDER).is_dir():  # such as a kit that a local mesh runs from a copy of
        raise NoWorkspace(
            f"no site has started in {folder}. Name the folder in which it runs; on the local target, "
            "the topology file and --site."
        )
    return folder


def main() -> None:
    """The command, with the arguments of the process."""
    parser = argparse.ArgumentParser("flaremesh", description="What a site's own admin decides and reads.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in {
        "pending": "show the runs that wait for a person",
        "approve": "approve a run that waits",
        "deny": "deny a run that waits or is approved, or further attempts of one that has begun",
        "audit": "show the audit log, or verify it",
    }.items():
        command = commands.add_parser(name, help=words, description=words)
        if name in ("approve", "deny"):
            command.add_argument("run", metavar="RUN", help="its id in `flaremesh pending`")
        if name == "audit":
            command.add_argument("action", choices=("show", "verify"))
            command.add_argument("--head", help="a head that verify printed before")
        if name in ("pending", "audit"):
            command.add_argument("--json", action="store_true", dest="as_json")
        here = os.environ.get(WORKSPACE_VARIABLE, ".")
        command.add_argument("workspace", nargs="?", type=Path, default=Path(here), metavar="WORKSPACE")
    given = parser.parse_args()
    try:
        sys.stdout.write(f"{_answer(given)}\n")
    except FlaremeshError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"Error: {error.filename}: {error.strerror}\n")
        sys.exit(1)


def _answer(given: argparse.Namespace) -> str:
    workspace = workspace_at(given.workspace)
    match given.command:
        case "pending":
            return pending(workspace, given.as_json)
        case "approve":
            return approve(workspace, given.run)
        case "deny":
            return deny(workspace, given.run)
    if given.action == "show":
        return show(workspace, given.as_json)
    return verify(workspace, given.head, given.as_json)


def _person() -> str:
    """The operating system's user, or its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _line(entry: Mapping[str, Any]) -> str:
    """An entry for people, without what proves it."""
    said = (f"{name}={_word(value)}" for name, value in entry.items() if name not in _PROOF and value)
    words = "  ".join(printable(word) for word in said)
    return f"{entry['sequence']:>5}  {entry.get('time')}  {entry['event']:<8}  {words}"


def _word(value: Any) -> str:
    match value:
        case dict():
            return ",".join(f"{name}:{_word(part)}" for name, part in value.items())
        case list():
            return "+".join(map(_word, value))
    return str(value)
