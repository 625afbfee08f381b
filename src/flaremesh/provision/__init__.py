"""From a topology to startup kits and jobs."""
