"""Peer-to-peer distributed optimisation on NVIDIA FLARE, from one topology file."""

__version__ = "0.1.0"
