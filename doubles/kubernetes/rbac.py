"""Who asks, and whether they may: tokens of service accounts, and the Role objects of the store.

A request without a token is the administrator's. A token that was never given out is refused with 401. Service accounts
may do what Roles and ClusterRoles bound to them allow, when the server enforces it; that it should is the point of
showing that a chart's Role is enough.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from doubles.kubernetes.kinds import BY_NAME, Object
from doubles.kubernetes.status import ApiError, forbidden, unauthorized
from doubles.kubernetes.store import Store

ADMINISTRATOR = "system:admin"
_GROUP = "rbac.authorization.k8s.io"
# What every authenticated user may read: discovery, and questions about itself.
_OPEN_GROUPS = frozenset({"authorization.k8s.io"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as authorization sees it. `namespace` is empty for the cluster's."""

    user: str
    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def full_resource(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    def refusal(self) -> ApiError:
        """The 403, worded as the real one."""
        qualified = f"{self.resource}.{self.group}" if self.group else self.resource
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        subject = f'{qualified} "{self.name}"' if self.name else qualified
        message = (
            f'{subject} is forbidden: User "{self.user}" cannot {self.verb} resource "{self.full_resource}" '
            f'in API group "{self.group}" {where}'
        )
        group = {"group": self.group} if self.group else {}
        name = {"name": self.name} if self.name else {}
        return forbidden(message, {**name, **group, "kind": self.resource})


class Access:
    """Tokens given out, and the decision on each request. `enforce` may be switched at any time."""

    def __init__(self, store: Store, *, enforce: bool = False) -> None:
        self.enforce = enforce
        self._store = store
        self._users: dict[str, str] = {}

    def token(self, namespace: str, account: str) -> str:
        """A new bearer token of a service account."""
        token = secrets.token_urlsafe(24)
        self._users[token] = f"system:serviceaccount:{namespace}:{account}"
        return token

    def user(self, authorization: str | None) -> str:
        """Whose request it is, by its Authorization header. Raises a 401 for a token that was not given out."""
        if not authorization:
            return ADMINISTRATOR
        scheme, _, token = authorization.partition(" ")
        user = self._users.get(token.strip())
        if scheme.lower() != "bearer" or user is None:
            raise unauthorized()
        return user

    def check(self, asked: Asked) -> None:
        """Raises a 403 for what no Role allows."""
        if self.enforce and not self.allows(asked):
            raise asked.refusal()

    def allows(self, asked: Asked) -> bool:
        if asked.user == ADMINISTRATOR or asked.group in _OPEN_GROUPS:
            return True
        return any(allowed_by(rule, asked) for rule in self._rules(asked.user, asked.namespace))

    def _rules(self, user: str, namespace: str) -> Iterator[Object]:
        for binding in self._store.items(BY_NAME["clusterrolebindings"]):
            yield from self._bound(binding, user, "")
        if namespace:
            for binding in self._store.items(BY_NAME["rolebindings"], namespace):
                yield from self._bound(binding, user, namespace)

    def _bound(self, binding: Object, user: str, namespace: str) -> Iterable[Object]:
        if not any(_is_subject(subject, user, namespace) for subject in binding.get("subjects") or ()):
            return ()
        reference = binding["roleRef"]
        kind = BY_NAME["clusterroles" if reference["kind"] == "ClusterRole" else "roles"]
        role = self._store.get(kind, namespace, reference["name"])
        return (role or {}).get("rules") or ()


def _is_subject(subject: Object, user: str, namespace: str) -> bool:
    if subject["kind"] == "ServiceAccount":
        return user == f"system:serviceaccount:{subject.get('namespace') or namespace}:{subject['name']}"
    if subject["kind"] == "Group":
        parts = user.split(":")
        groups = {"system:authenticated"}
        if user.startswith("system:serviceaccount:"):
            groups |= {"system:serviceaccounts", f"system:serviceaccounts:{parts[2]}"}
        return subject["name"] in groups
    return bool(subject["name"] == user)


def allowed_by(rule: Mapping[str, list[str]], asked: Asked) -> bool:
    """Whether one rule of a Role allows a request. `create` and lists have no name for resourceNames to match."""
    groups, resources, verbs = rule.get("apiGroups") or (), rule.get("resources") or (), rule.get("verbs") or ()
    names = rule.get("resourceNames") or ()
    return (
        ("*" in groups or asked.group in groups)
        and ("*" in resources or asked.full_resource in resources or _any_parent(resources, asked))
        and ("*" in verbs or asked.verb in verbs)
        and (not names or (bool(asked.name) and asked.name in names))
    )


def _any_parent(resources: Iterable[str], asked: Asked) -> bool:
    return bool(asked.subresource) and f"*/{asked.subresource}" in resources
