"""What the two packages run in a job's processes while they are timed: the same loops on both.

Controllers and executors of each package have their own module, so that no process imports more than in use.
"""
