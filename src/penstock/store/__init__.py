"""PostgreSQL tables, their migrations and the embedded server."""
