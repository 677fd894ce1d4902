"""What comes next for an upload, and that every history of one ends: placed once, or with nothing left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import QuotaExceeded, RateLimited
from berth.ids import ModelKey
from berth.model import Signature
from berth.states import Role
from controller.core.commands import Caller, Command
from controller.core.intake import (
    BEFORE,
    MAX_AGE_S,
    MAX_LOSSES,
    MAX_UNDER_WAY,
    Action,
    Blob,
    ConfirmStored,
    Facts,
    InspectedModel,
    InspectFile,
    PlaceVersion,
    Requester,
    StoreBytes,
    Upload,
    UploadStep,
    UploadTicket,
    WithdrawUpload,
    check_under_way,
    next_action,
    removable,
    reserve,
    survives,
    wish,
)

BLOB = Blob("a" * 64, 100)
NOTHING, HERE, STORED, BOTH = Facts(False, False), Facts(True, False), Facts(False, True), Facts(True, True)


def upload(
    step: UploadStep, *, key: str | None = "build-7", fence: int = 1, losses: int = 0, age_s: float = 1.0
) -> Upload:
    return Upload(
        UploadTicket(1, fence),
        ModelKey("acme", "digits"),
        Requester(Command(Caller("key-1", Role.DEVELOPER, "acme")), key),
        step,
        () if step is UploadStep.RECEIVING else (BLOB,),
        InspectedModel(Signature((), ()), 10) if step is UploadStep.INSPECTED else None,
        losses,
        age_s,
    )


@pytest.mark.parametrize(
    ("step", "facts", "expected"),
    [
        (UploadStep.RECEIVED, HERE, StoreBytes()),
        (UploadStep.RECEIVED, BOTH, StoreBytes()),  # the bytes are checked all the same
        (UploadStep.STORED, BOTH, InspectFile()),
        (UploadStep.STORED, HERE, InspectFile()),
        (UploadStep.INSPECTED, BOTH, PlaceVersion()),
        (UploadStep.INSPECTED, HERE, PlaceVersion()),
    ],
)
def test_the_one_that_received_it(step: UploadStep, facts: Facts, expected: Action) -> None:
    for key in ("build-7", None):
        assert next_action(upload(step, key=key), facts) == expected


@pytest.mark.parametrize(
    ("step", "facts", "expected"),
    [
        (UploadStep.RECEIVING, NOTHING, "withdraw"),
        (UploadStep.RECEIVED, NOTHING, "withdraw"),
        (UploadStep.RECEIVED, STORED, ConfirmStored()),
        (UploadStep.STORED, STORED, InspectFile()),
        (UploadStep.STORED, NOTHING, "withdraw"),
        (UploadStep.INSPECTED, STORED, PlaceVersion()),
        (UploadStep.INSPECTED, NOTHING, "withdraw"),
    ],
)
def test_one_that_took_over(step: UploadStep, facts: Facts, expected: Action | str) -> None:
    action = next_action(upload(step, fence=2, losses=1), facts)
    assert isinstance(action, WithdrawUpload) if expected == "withdraw" else action == expected
    # Nobody could hear of a version that was made without a key.
    assert isinstance(next_action(upload(step, key=None, fence=2, losses=1), facts), WithdrawUpload)


@pytest.mark.parametrize(
    ("losses", "age_s", "goes_on"),
    [(MAX_LOSSES - 1, MAX_AGE_S, True), (MAX_LOSSES, 1.0, False), (1, MAX_AGE_S + 1, False)],
)
def test_it_is_not_tried_for_ever(losses: int, age_s: float, goes_on: bool) -> None:
    action = next_action(upload(UploadStep.STORED, fence=9, losses=losses, age_s=age_s), STORED)
    assert (action == InspectFile()) == goes_on
    # Whoever received it goes on however long it takes: the limits of a body are elsewhere.
    assert next_action(upload(UploadStep.STORED, age_s=MAX_AGE_S + 1), BOTH) == InspectFile()


@pytest.mark.parametrize(
    ("step", "key", "expected"),
    [
        (UploadStep.RECEIVING, "k", False),
        (UploadStep.RECEIVED, "k", False),
        (UploadStep.STORED, "k", True),
        (UploadStep.INSPECTED, "k", True),
        (UploadStep.STORED, None, False),
        (UploadStep.INSPECTED, None, False),
    ],
)
def test_what_survives_its_controller(step: UploadStep, key: str | None, expected: bool) -> None:
    assert survives(upload(step, key=key)) == expected


def test_bytes_that_a_lost_holder_may_still_be_storing_are_left_to_the_collector() -> None:
    assert removable(upload(UploadStep.RECEIVED)) == (BLOB,)
    assert removable(upload(UploadStep.RECEIVED, fence=2, losses=1)) == ()
    assert removable(upload(UploadStep.STORED, fence=2, losses=1)) == (BLOB,)
    assert removable(upload(UploadStep.RECEIVING)) == ()


@given(st.integers(0, 100), st.integers(0, 120), st.integers(0, 60), st.integers(0, 60))
def test_a_reservation_fits_or_is_refused(limit: int, used: int, needed: int, more: int) -> None:
    if needed > 0 and used + needed > limit:
        with pytest.raises(QuotaExceeded):
            reserve(limit=limit, used=used, needed=needed, wished=needed + more)
        return
    granted = reserve(limit=limit, used=used, needed=needed, wished=needed + more)
    assert needed <= granted <= needed + more
    assert granted == 0 or used + granted <= limit
    assert granted == needed + more or granted == max(needed, limit - used)


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_a_reservation_without_a_length_is_asked_for_seldom(size: int, largest: int) -> None:
    wished = wish(size, max(size, largest))
    assert size <= wished <= max(size, largest)
    assert wished == max(size, largest) or wished >= 2 * size


def test_a_tenant_has_so_many_under_way() -> None:
    check_under_way(MAX_UNDER_WAY - 1)
    with pytest.raises(RateLimited):
        check_under_way(MAX_UNDER_WAY)


@given(
    st.booleans(),
    st.lists(
        st.sampled_from(["work", "work", "work", "lost before it is recorded", "lost", "given back"]), max_size=30
    ),
)
def test_every_history_ends_placed_once_or_with_nothing_left(keyed: bool, history: list[str]) -> None:
    """A holder that works records one step at a time; one that is lost takes its spool along, at any moment,
    also between doing a step and recording it."""
    state = upload(UploadStep.RECEIVED, key="k" if keyed else None)
    spooled, stored, placed = True, False, 0
    after = {before: step for step, before in BEFORE.items()}
    # After the history nothing fails any more.
    for what in [*history, *["work"] * 6]:
        action = next_action(state, Facts(spooled, stored))
        if isinstance(action, WithdrawUpload):
            assert state.taken_over
            assert not placed
            return
        if what != "lost":
            stored = stored or isinstance(action, StoreBytes)
            if what == "work":
                if isinstance(action, PlaceVersion):
                    placed += 1
                    break
                model = InspectedModel(Signature((), ()), 10) if isinstance(action, InspectFile) else None
                state = state._replace(step=after[state.step], model=model)
                state.validate()
                continue
        if what == "given back":
            if not survives(state):
                return  # its holder withdraws it instead
            state = state._replace(ticket=UploadTicket(1, state.ticket.fence + 1))
        else:
            state = state._replace(ticket=UploadTicket(1, state.ticket.fence + 1), losses=state.losses + 1)
        spooled = False
    assert placed == 1
    assert keyed or not state.taken_over
