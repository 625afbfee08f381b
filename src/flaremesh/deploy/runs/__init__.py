"""A run on a mesh that is up: its submission, its course, and the folder with what it leaves behind."""
