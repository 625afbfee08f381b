"""What builds and releases the project from a checkout: images, files of the charts, dashboards, docs."""
