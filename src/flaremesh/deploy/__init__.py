"""Targets: where a mesh runs, and what one does with it there."""
