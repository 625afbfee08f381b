import os

# the models of the tests are small: more threads only wait for each other, and badly so on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")
