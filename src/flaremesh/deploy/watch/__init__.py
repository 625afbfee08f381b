"""A mesh that is up: its state, its metrics in the terminal and in Grafana, and what is wrong with it."""
