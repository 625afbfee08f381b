"""Wide-area networks on one machine: sites in network namespaces, joined by lines that have a rate and a delay.

``python -m bench.wan`` measures; see docs/performance.md. It needs the right to make network namespaces and TUN
devices: root's, or ``unshare --user --map-root-user``.
"""
