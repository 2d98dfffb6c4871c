"""Logs, metrics, traces and redaction."""
