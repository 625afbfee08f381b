"""Wide-area networks on one machine: sites in network namespaces, joined by lines with a rate and a delay.

``python -m bench.wan`` measures. It needs the right to make network namespaces and TUN devices: root's, or
that of ``unshare --user --map-root-user``.
"""
