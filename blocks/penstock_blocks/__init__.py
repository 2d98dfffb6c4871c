"""Prefect blocks for the systems that Penstock talks to."""
