import logging
import os
import signal

from hypothesis import settings

from skipped import pytest_runtest_logreport

__all__ = ["pytest_runtest_logreport"]

# the models of the tests are small: more threads only wait for each other, and badly so on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell lets what it starts in the background ignore Ctrl-C, and so would all commands that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)

# an example that is slow on a busy machine is no failure
settings.register_profile("flaremesh", deadline=None)
settings.load_profile("flaremesh")


class _Loggers(dict):
    """The loggers by name. Looking through them is safe while a thread adds one.

    pytest looks through all of them at each phase of a test, and what a test started may still be importing.
    """

    def values(self):
        return list(super().values())


logging.root.manager.loggerDict = _Loggers(logging.root.manager.loggerDict)
