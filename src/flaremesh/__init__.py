"""Peer-to-peer distributed optimisation on NVIDIA FLARE, from one topology file."""

from importlib.metadata import version

__version__ = version("flaremesh")
