"""Events and instructions of a cell as JSON. What has a form on the wire has the same form here."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from berth.model import Order
from berth.wire import convert
from berth.wire.v1 import common_pb2, desired_pb2
from synchronizer.core.events import (
    CellEvent,
    DesiredArrived,
    Discovered,
    Instructions,
    Led,
    Lost,
    Reported,
    Reserved,
    RouterGone,
    RouterSeen,
    SteppedDown,
)

Json = dict[str, Any]


def event_to_json(event: CellEvent) -> Json:
    """The event, with its class's name as `event`."""
    return {"event": type(event).__name__, **_fields(event)}


def event_from_json(entry: Json) -> CellEvent:
    """The reverse of `event_to_json`. Raises `ValueError` for what is none."""
    try:
        return _read(entry)
    except (KeyError, TypeError, AttributeError, ParseError) as error:
        raise ValueError(f"not an event: {error!r}") from None


def instructions_to_json(todo: Instructions) -> Json:
    """For comparing: nothing reads it back."""
    return {
        "fenced": todo.fenced,
        "publish": None if todo.publish is None else _message(convert.delta_to_wire(todo.publish)),
        "pushes": [[push.replica, _message(convert.aspired_to_wire(push.aspired))] for push in todo.pushes],
        "changed": todo.changed,
        "reserve_after": todo.reserve_after,
        "wake_at": todo.wake_at,
    }


def _fields(event: CellEvent) -> Json:
    match event:
        case Led():
            return {"epoch": event.epoch}
        case SteppedDown():
            return {}
        case Reserved():
            return {"after": event.after, "upto": event.upto}
        case DesiredArrived():
            return {"state": _message(convert.desired_to_wire(event.state))}
        case Discovered():
            addresses = {name: _message(convert.address_to_wire(at)) for name, at in event.addresses.items()}
            return {"addresses": addresses, "leaving": sorted(event.leaving)}
        case Reported():
            status = _message(convert.replica_status_to_wire(event.status))
            return {"status": status, "refused": event.refused, "opened": event.opened}
        case Lost():
            return {"replica": event.replica}
        case RouterSeen():
            return {"session": event.session, "router": event.router, "applied": list(event.applied)}
        case RouterGone():
            return {"session": event.session}


def _read(entry: Json) -> CellEvent:
    match entry["event"]:
        case "Led":
            return Led(entry["epoch"])
        case "SteppedDown":
            return SteppedDown()
        case "Reserved":
            return Reserved(entry["after"], entry["upto"])
        case "DesiredArrived":
            return DesiredArrived(convert.desired_from_wire(ParseDict(entry["state"], desired_pb2.DesiredState())))
        case "Discovered":
            addresses = {
                name: convert.address_from_wire(ParseDict(at, common_pb2.ReplicaAddress()))
                for name, at in entry["addresses"].items()
            }
            return Discovered(addresses, frozenset(entry["leaving"]))
        case "Reported":
            status = convert.replica_status_from_wire(ParseDict(entry["status"], common_pb2.ReplicaStatus()))
            return Reported(status, entry["refused"], entry["opened"])
        case "Lost":
            return Lost(entry["replica"])
        case "RouterSeen":
            return RouterSeen(entry["session"], entry["router"], Order(*entry["applied"]))
        case "RouterGone":
            return RouterGone(entry["session"])
        case other:
            raise ValueError(f"there is no event {other!r}")


def _message(message: Any) -> Json:
    found: Json = MessageToDict(message, preserving_proto_field_name=True)
    return found
