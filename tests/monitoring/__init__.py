"""Alerts by the real promtool, and the dashboards' queries by a real Prometheus over pages of real processes."""
