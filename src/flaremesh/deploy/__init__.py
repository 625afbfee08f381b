"""A mesh on its target: started and stopped, run, watched, and reported on."""
