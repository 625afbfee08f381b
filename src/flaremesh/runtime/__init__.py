"""The loop of a site, its history, and whole meshes in one process."""
