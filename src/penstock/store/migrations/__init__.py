"""Alembic's folder; `penstock.store.migrate` runs what is in it."""
