from __future__ import annotations

import pytest

from berth.errors import QuotaExceeded
from controller.core.quota import check_bytes, check_models


@pytest.mark.parametrize(("limit", "used", "asked"), [(10, 9, 1), (10, 0, 10), (10, 12, 0), (0, 0, 0)])
def test_within(limit: int, used: int, asked: int) -> None:
    check_models(limit, used, asked)
    check_bytes(limit, used, asked)


@pytest.mark.parametrize(("limit", "used", "asked"), [(10, 10, 1), (10, 0, 11), (0, 0, 1), (5, 9, 1)])
def test_beyond(limit: int, used: int, asked: int) -> None:
    with pytest.raises(QuotaExceeded) as models:
        check_models(limit, used, asked)
    assert models.value.fields == {"quota": "max_models", "limit": limit, "used": used, "asked": asked}
    with pytest.raises(QuotaExceeded) as stored:
        check_bytes(limit, used, asked)
    assert stored.value.fields["quota"] == "max_bytes"
    assert stored.value.status.http == 403
