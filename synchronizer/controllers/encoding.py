"""Observations as messages. Only what changed since the last message is encoded anew.

A report is complete every time. For a cell of a hundred thousand servables that is 0.3 s of encoding, once a second and
after each change. Each replica's message is kept, so that a report costs only what changed.
"""

from __future__ import annotations

from typing import NamedTuple

from berth.ids import VersionKey
from berth.model import ObservedCell, ObservedReplica, ReplicaAddress, ServableStatus
from berth.wire import convert
from berth.wire.v1 import desired_pb2


class _Encoded(NamedTuple):
    address: ReplicaAddress
    servables: tuple[ServableStatus, ...]
    routed: frozenset[VersionKey]
    message: desired_pb2.ObservedReplica


class ObservedEncoder:
    def __init__(self) -> None:
        self._known: dict[str, _Encoded] = {}

    def encode(self, observed: ObservedCell) -> desired_pb2.ObservedCell:
        """The same as `convert.observed_to_wire(observed)`."""
        encoded = {replica.status.address.replica: self._replica(replica) for replica in observed.replicas}
        self._known = encoded
        return desired_pb2.ObservedCell(
            cell=observed.cell,
            epoch=observed.epoch,
            desired_generation=observed.desired_generation,
            replicas=[entry.message for entry in encoded.values()],
            routers=observed.routers,
            pools=[convert.pool_to_wire(pool) for pool in observed.pools],
            wanted=observed.wanted,
        )

    def _replica(self, replica: ObservedReplica) -> _Encoded:
        status = replica.status
        known = self._known.get(status.address.replica)
        # Statuses share the tuple while it does not change, so identity is the common case.
        if known is None or known.address != status.address or known.servables is not status.servables:
            message = desired_pb2.ObservedReplica(status=convert.replica_status_to_wire(status))
            routed: frozenset[VersionKey] = frozenset()
        else:
            message, routed = known.message, known.routed
            message.status.accepted.CopyFrom(convert.order_to_wire(status.accepted))
            message.status.memory_limit = status.memory_limit
            message.status.memory_used = status.memory_used
            message.status.in_flight = status.in_flight
            message.status.draining = status.draining
            message.status.load.CopyFrom(convert.replica_load_to_wire(status.load))
            del message.status.loads[:]
            message.status.loads.extend(convert.servable_load_to_wire(load) for load in status.loads)
        if routed != replica.routed:
            del message.routed[:]
            message.routed.extend(convert.version_ref_to_wire(key) for key in sorted(replica.routed))
        message.connected = replica.connected
        message.seen_at = replica.seen_at
        return _Encoded(status.address, status.servables, replica.routed, message)
