"""Run by Alembic for every command; the connection is handed in by `penstock.store.migrate`."""

from alembic import context
from sqlalchemy import Connection

from penstock.store.approval_tables import metadata
from penstock.store.tables import SCHEMA

connection = context.config.attributes["connection"]
assert isinstance(connection, Connection)  # noqa: S101  tells the type checker what `attributes` holds

context.configure(connection=connection, target_metadata=metadata, version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
