"""What builds the project from a checkout: images, files of the charts, dashboards, pages of the docs."""
