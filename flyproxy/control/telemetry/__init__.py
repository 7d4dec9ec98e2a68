"""Telemetry: the metrics page and the access log."""
