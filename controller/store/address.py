"""The database's URL in the two spellings that its drivers want."""

from __future__ import annotations


def sqlalchemy_url(url: str) -> str:
    """`url` with the driver named, as SQLAlchemy wants it."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if separator and scheme in ("postgres", "postgresql") else url


def libpq_url(url: str) -> str:
    """`url` as psycopg itself wants it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)
