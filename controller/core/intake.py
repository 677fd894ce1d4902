"""An upload on its way to becoming a version: its steps, what comes next, and what is left when it ends.

    receiving ──► received ──► stored ──► inspected ──► placed (the version is there, the upload is not)
        └─────────────┴───────────┴───────────┴───────► withdrawn (nothing is left)

* receiving: bytes arrive in the spool of one controller, and die with it.
* received: all of them are there and hashed; the artifacts are announced by their digests.
* stored: the artifact store has them. From here on any controller can go on.
* inspected: what is in the file is known.

Contract:

1. **The quota comes first.** No byte is spooled or stored before the tenant's quota was asked for it. Uploads that
   stand for the same request (the same idempotency key and model) are counted once, as the largest: one of them
   becomes a version.
2. **Forward only, one step at a time**, recorded by whoever holds the upload's lease. The `fence` grows with each new
   holder, so that an earlier one records nothing more.
3. **Done twice is done once.** Who takes over may repeat the step under way: the same bytes have the same name, the
   same file says the same, and a version is made with its idempotency key in one transaction.
4. **Without an idempotency key an upload ends with its controller.** Its client got no answer and will send it again;
   to finish it as well would make a second version that nobody asked for.
5. **What is withdrawn leaves nothing**: the quota is free at once, and so is the place of bytes that nobody else uses.
6. **It ends.** An upload that is too old is withdrawn, and so is one whose holders were lost too often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from berth.errors import RateLimited
from berth.ids import ModelKey
from berth.model import Signature
from controller.core import quota
from controller.core.commands import Command

LEASE_S = 20.0
"""How long a holder may be silent, in seconds by the database's clock."""
MAX_AGE_S = 6 * 3600.0
"""Shorter than the time for which answers are remembered: else a late upload could make its version a second time."""
MAX_LOSSES = 3
"""What took so many controllers with it is not given to another."""
MAX_UNDER_WAY = 100
"""Uploads of one tenant at once."""

_GROWTH_BYTES = 16 << 20


class UploadStep(StrEnum):
    """The last step that is done."""

    RECEIVING = "receiving"
    RECEIVED = "received"
    STORED = "stored"
    INSPECTED = "inspected"


BEFORE: Mapping[UploadStep, UploadStep] = {
    UploadStep.RECEIVED: UploadStep.RECEIVING,
    UploadStep.STORED: UploadStep.RECEIVED,
    UploadStep.INSPECTED: UploadStep.STORED,
}
"""Which step each follows. After the last the upload is a version."""
_SHARED = frozenset({UploadStep.STORED, UploadStep.INSPECTED})


class Blob(NamedTuple):
    """Bytes named by their SHA-256."""

    sha256: str
    size_bytes: int


class InspectedModel(NamedTuple):
    """`initializer_bytes` is what all of the model's tensors take in memory, those in attributes included."""

    signature: Signature
    initializer_bytes: int


class Requester(NamedTuple):
    """Who asked for an upload: enough to go on in their name.

    `fingerprint` says what the idempotency key stands for. It is None until the bytes are known.
    """

    command: Command
    idempotency_key: str | None = None
    fingerprint: bytes | None = None

    @property
    def actor(self) -> str:
        return self.command.actor


class UploadTicket(NamedTuple):
    """The right to record an upload's next step, until someone else has a later one."""

    upload: int
    fence: int


class Upload(NamedTuple):
    """`blobs` is empty until they are received; today there is one. `age_s` is by the database's clock when read.

    `losses` is how many of its holders ended without a word.
    """

    ticket: UploadTicket
    key: ModelKey
    requester: Requester
    step: UploadStep
    blobs: tuple[Blob, ...] = ()
    model: InspectedModel | None = None
    losses: int = 0
    age_s: float = 0.0

    @property
    def keyed(self) -> bool:
        """Whether its client can ask for its answer later."""
        return self.requester.idempotency_key is not None

    @property
    def taken_over(self) -> bool:
        """Whether its holder is not the controller that received it, or still receives it."""
        return self.ticket.fence > 1

    def validate(self) -> None:
        """Raises `AssertionError` for a state that no history leads to."""
        assert bool(self.blobs) == (self.step is not UploadStep.RECEIVING)
        assert (self.model is not None) == (self.step is UploadStep.INSPECTED)
        assert 0 <= self.losses < self.ticket.fence


class Facts(NamedTuple):
    """What a holder sees: all bytes are in its spool; the artifact store has them."""

    spooled: bool
    stored: bool


@dataclass(frozen=True, slots=True)
class StoreBytes:
    """Put the bytes into the artifact store."""


@dataclass(frozen=True, slots=True)
class ConfirmStored:
    """The store has the bytes, though nobody recorded it: do so."""


@dataclass(frozen=True, slots=True)
class InspectFile:
    """Read the file, from the spool or from the store."""


@dataclass(frozen=True, slots=True)
class PlaceVersion:
    """Make it a version."""


@dataclass(frozen=True, slots=True)
class WithdrawUpload:
    """It cannot become a version. `reason` is for the log."""

    reason: str


Action = StoreBytes | ConfirmStored | InspectFile | PlaceVersion | WithdrawUpload


def next_action(upload: Upload, facts: Facts) -> Action:
    """What the holder of `upload` is to do now."""
    if upload.taken_over and (reason := _why_not_take_over(upload)):
        return WithdrawUpload(reason)
    match upload.step:
        case UploadStep.RECEIVING:
            return WithdrawUpload("the controller that received it is gone")
        case UploadStep.RECEIVED if facts.spooled:
            return StoreBytes()
        case UploadStep.RECEIVED if facts.stored:
            return ConfirmStored()
        case _ if not (facts.spooled or facts.stored):
            return WithdrawUpload("its bytes are gone")
        case UploadStep.STORED:
            return InspectFile()
        case _:
            return PlaceVersion()


def _why_not_take_over(upload: Upload) -> str:
    if not upload.keyed:
        return "its client got no answer, and has no idempotency key to ask for it"
    if upload.losses >= MAX_LOSSES:
        return f"{upload.losses} controllers were lost with it"
    if upload.age_s > MAX_AGE_S:
        return "it is too old"
    return ""


def survives(upload: Upload) -> bool:
    """Whether another controller could finish it, if its holder stopped now."""
    return upload.keyed and upload.step in _SHARED


def removable(upload: Upload) -> tuple[Blob, ...]:
    """The blobs whose objects may be removed when `upload` is withdrawn, where nobody else uses them.

    A lost holder may still be storing what it received. Those blobs are left to the collector, which waits longer.
    """
    if upload.taken_over and upload.step not in _SHARED:
        return ()
    return upload.blobs


def reserve(*, limit: int, used: int, needed: int, wished: int) -> int:
    """How many bytes to reserve for an upload: `wished` if the quota has them, and at least what is `needed`.

    `used` is what is stored or reserved for others. Raises `QuotaExceeded`.
    """
    quota.check_bytes(limit, used, needed)
    return max(needed, min(wished, limit - used))


def wish(size: int, largest: int) -> int:
    """The reservation to ask for when `size` bytes are there and nobody said how many will come.

    It doubles, so that it is asked for seldom. `largest`: the bytes that one artifact may have.
    """
    return max(size, min(largest, size + max(size, _GROWTH_BYTES)))


def check_under_way(count: int) -> None:
    """Raises `RateLimited` if a tenant with `count` uploads under way may not begin another."""
    if count >= MAX_UNDER_WAY:
        raise RateLimited(f"the tenant has {count} uploads under way, as many as it may have", retry_after=1.0)
