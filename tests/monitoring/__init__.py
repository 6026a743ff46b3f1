"""Alerts by the real promtool."""
