"""The control API over HTTP: paths, roles, schemas and problem documents. It decides nothing and speaks no SQL."""
