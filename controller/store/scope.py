"""Whose rows are asked for: every function that reads rows of tenants says so, and filters by it.

The API has asked whether its caller may see a tenant's things before; this is the second lock on the same door.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, true


class Everyone(Enum):
    """The type of `EVERY_TENANT`."""

    EVERY_TENANT = "every tenant"


class Platform(Enum):
    """The type of `PLATFORM`."""

    PLATFORM = "the platform"


EVERY_TENANT = Everyone.EVERY_TENANT
"""For the platform's own work, and for operators, who see everybody's things."""
PLATFORM = Platform.PLATFORM
"""What belongs to no tenant."""

TenantScope = str | Everyone
"""A tenant's name, or all of them."""
Owner = str | Platform
"""A tenant's name, or the platform: who has keys."""


def within(column: Any, scope: TenantScope | Owner) -> ColumnElement[bool]:
    """The condition that a row whose tenant is in `column` is in `scope`."""
    if scope is EVERY_TENANT:
        return true()
    if scope is PLATFORM:
        condition: ColumnElement[bool] = column.is_(None)
        return condition
    equal: ColumnElement[bool] = column == scope
    return equal


def owner_of(tenant: str | None) -> Owner:
    """As API keys have it: those without a tenant are the platform's."""
    return PLATFORM if tenant is None else tenant
