"""What operators watch: alert rules and Grafana dashboards, written here once and rendered into the Helm chart.

`python -m deploy.monitoring` writes the chart's files anew. Nothing here runs in a Berth process.
"""
