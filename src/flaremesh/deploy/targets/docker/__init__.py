"""The mesh on a Docker engine."""
