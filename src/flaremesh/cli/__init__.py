"""The command line: parse, call, print."""

import sys
from pathlib import Path
from types import TracebackType

from flaremesh import import_path


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    # Ctrl-C while modules are imported: no command has begun that could tell of it
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("Interrupted.\n")
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _hook

# while Python looks for the module of ``python -m``; it has put the current folder on the path
if sys.argv[0] == "-m":
    import_path.leave_out(Path.cwd())
