"""The schema's history, run by Alembic. Read by path, never imported by what is shipped."""
