"""The door of a site: the one place where a run is let in or refused, before anything of it is loaded."""
