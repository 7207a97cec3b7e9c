"""What people watch a server by, written once and turned into Grafana's dashboards, Prometheus' console page and more.

`make generated` writes all of it; a test compares.
"""
