"""Peer-to-peer runs on NVFlare: controller, executors, and the agents of sites and server."""
