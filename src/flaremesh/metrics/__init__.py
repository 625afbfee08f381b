"""What a run measures, and how a site shows it."""
