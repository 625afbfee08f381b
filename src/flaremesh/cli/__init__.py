"""The command line: parse, call, print."""

import sys
from types import TracebackType


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    # Ctrl-C while modules are imported: no command has begun that could tell of it
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("Interrupted.\n")
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _hook
