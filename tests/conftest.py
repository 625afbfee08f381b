import os

from hypothesis import settings

# the models of the tests are small: more threads only wait for each other, and badly so on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

# an example that is slow on a busy machine is no failure
settings.register_profile("flaremesh", deadline=None)
settings.load_profile("flaremesh")
