"""What a mesh that is up does: its state, its metrics in the terminal and in Grafana, and what is wrong."""
