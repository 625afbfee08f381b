"""The Grafana dashboards as code, one module each; ``make dashboards`` writes them into the chart."""
