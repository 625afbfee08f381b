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
