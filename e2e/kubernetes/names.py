"""Addresses of pods and services on loopback, and what the cluster's DNS would have said.

Processes that stand for pods share this machine's resolver, which knows no cluster. So the names of services in their
settings are replaced by addresses when they start: a service by the address of its forwarder, a StatefulSet's pod by an
address that stays its own however often it is replaced.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Callable, Container

from e2e.kubernetes.api import Key

_GUARD_PORT = 47_001
_PER_BLOCK = 250
_HOST = re.compile(r"(?<![\w.-])[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*(?![\w-]|\.\w)")


class Addresses:
    """A network 127.N.0.0/16 of one's own: other test runs on this machine have others. Close it when done."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, Key], str] = {}
        self._network, self._guard = _take_network()

    def close(self) -> None:
        self._guard.close()

    def pod(self, key: Key) -> str:
        """The same for each pod of that name: a StatefulSet's come back."""
        return self._address("pod", key)

    def service(self, key: Key) -> str:
        return self._address("service", key)

    def node(self, name: str) -> str:
        return self._address("node", ("", name))

    def _address(self, kind: str, key: Key) -> str:
        block, host = divmod(len(self._given), _PER_BLOCK)
        return self._given.setdefault((kind, key), f"127.{self._network}.{block}.{host + 2}")


def _take_network() -> tuple[int, socket.socket]:
    """A free network and the socket that marks it as taken."""
    candidates = list(range(16, 250))
    random.shuffle(candidates)
    for network in candidates:
        guard = socket.socket()
        try:
            guard.bind((f"127.{network}.0.1", _GUARD_PORT))
            guard.listen(1)
        except OSError:
            guard.close()
            continue
        return network, guard
    raise RuntimeError("no free loopback network")


def resolve_names(text: str, namespace: str, services: Container[Key], addresses: Addresses) -> str:
    """`text` with each name of a service or of a service's pod replaced by its address.

    Short names count only where a port follows, since any word could be one.
    """

    def address(found: re.Match[str]) -> str:
        host = found[0]
        with_port = re.match(r":\d", text[found.end() :]) is not None
        return _lookup(host, namespace, services, addresses, short=with_port) or host

    return _HOST.sub(address, text)


def _lookup(host: str, namespace: str, services: Container[Key], addresses: Addresses, *, short: bool) -> str | None:
    labels = host.removesuffix(".cluster.local").split(".")
    if labels[-1] == "svc" and len(labels) > 2:
        name, space = labels[-3], labels[-2]
        if (space, name) in services and len(labels) <= 4:
            return addresses.pod((space, labels[0])) if len(labels) == 4 else addresses.service((space, name))
        return None
    if not short:
        return None
    match labels:
        case [name] if (namespace, name) in services:
            return addresses.service((namespace, name))
        case [name, space] if (space, name) in services:
            return addresses.service((space, name))
        case [pod, name] if (namespace, name) in services:
            return addresses.pod((namespace, pod))
    return None


Resolve = Callable[[str], str]
