"""Penstock: approval-gated agent workflows on Prefect."""

__version__ = "0.1.0"
