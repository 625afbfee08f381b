"""What keeps a site's data from those that take part with it."""
