from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.ids import VersionKey
from berth.model import ServableStatus
from berth.states import ServableState, VersionState
from controller.core.status import Counts, Sighting, Stay, derive

KEY = VersionKey("t", "m", 1)
S = ServableState
V = VersionState


def seen(
    state: ServableState | None, *, routed: bool = False, connected: bool = True, since: float = 50.0, reason: str = ""
) -> Sighting:
    status = None if state is None else ServableStatus(KEY, state, reason, since)
    return Sighting(status, routed, connected)


HELD, RELEASING = Stay.HELD, Stay.RELEASING


@pytest.mark.parametrize(
    ("assigned", "sightings", "state", "since", "reason"),
    [
        (HELD, [], V.PENDING, 10, "its job has no replicas"),
        (HELD, [seen(None)], V.PENDING, 10, "no replica has begun to load it"),
        (HELD, [seen(S.NEW)], V.PENDING, 10, "no replica has begun to load it"),
        (HELD, [seen(S.END)], V.PENDING, 10, "no replica has begun to load it"),
        (HELD, [seen(S.UNLOADING)], V.PENDING, 10, "a replica is still letting go of it and will load it again"),
        (HELD, [seen(S.AVAILABLE, routed=True, connected=False)], V.PENDING, 10, "no replica of its job is connected"),
        (HELD, [seen(S.LOADING), seen(S.LOADING, since=40)], V.LOADING, 40, ""),
        (HELD, [seen(S.LOADING, reason="fetch failed, retrying")], V.LOADING, 50, "fetch failed, retrying"),
        (
            HELD,
            [seen(S.AVAILABLE), seen(None)],
            V.LOADING,
            50,
            "loaded on 1 of 2 replicas, routers do not send requests there yet",
        ),
        (
            HELD,
            [seen(S.LOADING), seen(S.ERROR, reason="bad")],
            V.LOADING,
            50,
            "1 of 2 replicas could not load it: bad",
        ),
        (HELD, [seen(S.LOADING, routed=True)], V.LOADING, 50, ""),  # a stale route does not make it available
        (HELD, [seen(S.AVAILABLE, routed=True, since=30), seen(S.AVAILABLE, routed=True)], V.AVAILABLE, 30, ""),
        (
            HELD,
            [seen(S.AVAILABLE, routed=True), seen(S.ERROR, reason="bad")],
            V.AVAILABLE,
            50,
            "1 of 2 replicas could not load it: bad",
        ),
        (
            HELD,
            [seen(S.ERROR, since=60, reason="late"), seen(S.ERROR, since=20, reason="early")],
            V.FAILED,
            60,
            "2 of 2 replicas could not load it: early",
        ),
        (HELD, [seen(S.ERROR)], V.FAILED, 50, "1 of 1 replicas could not load it: no reason given"),
        (HELD, [seen(S.ERROR, connected=False), seen(None)], V.PENDING, 10, "no replica has begun to load it"),
        (RELEASING, [seen(S.AVAILABLE, routed=True)], V.DRAINING, 10, "1 replica still holds it"),
        (RELEASING, [seen(S.DRAINING), seen(S.UNLOADING)], V.DRAINING, 10, "2 replicas still hold it"),
        (RELEASING, [], V.DRAINING, 10, "waiting for its replicas to confirm that it is gone"),
        (None, [], V.RETIRED, 10, ""),
        (None, [seen(None), seen(S.END), seen(S.ERROR)], V.RETIRED, 10, ""),
        (None, [seen(S.UNLOADING)], V.DRAINING, 10, "1 replica still holds it"),
    ],
)
def test_state(
    assigned: Stay | None, sightings: list[Sighting], state: VersionState, since: float, reason: str
) -> None:
    status = derive(assigned, sightings, 10.0)
    assert (status.state, status.since, status.reason) == (state, since, reason)


def test_counts() -> None:
    sightings = [
        seen(None),
        seen(S.NEW),
        seen(S.LOADING),
        seen(S.AVAILABLE),
        seen(S.AVAILABLE, routed=True),
        seen(S.AVAILABLE, routed=True, connected=False),
        seen(S.ERROR),
        seen(S.DRAINING),
        seen(S.UNLOADING),
        seen(S.END),
    ]
    assert derive(HELD, sightings, 0).replicas == Counts(total=10, available=1, loading=2, failed=1, draining=2)


@pytest.mark.parametrize(("measured", "expected"), [([], None), ([0, 0], None), ([0, 7, 9, 8], 9)])
def test_measured_is_the_largest(measured: list[int], expected: int | None) -> None:
    sightings = [Sighting(ServableStatus(KEY, S.AVAILABLE, measured_bytes=m), False, True) for m in measured]
    assert derive(HELD, sightings, 0).measured_bytes == expected


sightings_st = st.lists(
    st.builds(
        Sighting,
        status=st.none()
        | st.builds(ServableStatus, key=st.just(KEY), state=st.sampled_from(S), since=st.floats(0, 1e9)),
        routed=st.booleans(),
        connected=st.booleans(),
    ),
    max_size=5,
)


@given(st.sampled_from([HELD, RELEASING, None]), sightings_st)
def test_available_exactly_if_it_can_be_queried_and_stays(assigned: Stay | None, sightings: list[Sighting]) -> None:
    status = derive(assigned, sightings, 1.0)
    queryable = any(it.connected and it.routed and it.status and it.status.state is S.AVAILABLE for it in sightings)
    assert (status.state is V.AVAILABLE) == (queryable and assigned is HELD)
    assert status == derive(assigned, sightings[::-1], 1.0)
    if status.state is V.FAILED:
        assert status.replicas.failed
        assert status.reason
    if status.state is V.RETIRED:
        assert assigned is None
        assert not status.replicas.available
