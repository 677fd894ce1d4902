"""A running service, as its API tells: can it be reached, who are we, is everything that should be there?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx

from berth.doctor.findings import Finding, fail, ok, warn
from berth.errors import BerthError
from berth.states import VersionState

if TYPE_CHECKING:
    from berth.client import Berth

_TIMEOUT_S = 5.0
_PROMISED = {VersionState.AVAILABLE, VersionState.RETIRED, VersionState.DRAINING}


def examine(controller: str, router: str, key: str, tenant: str | None) -> Iterator[Finding]:
    """Look at the service behind these base URLs. An empty `key` is a finding too."""
    yield _answers("controller", f"{controller}/readyz", "is it running? see `berth up`, or `berth login`")
    yield _answers("router", f"{router}/v2/health/ready", "is it running? see `berth up`, or `berth login`")
    if not key:
        yield fail("key", "none is stored", "berth login, or set BERTH_KEY")
        return
    from berth.client import Berth

    with Berth(key, controller=controller, router=router, tenant=tenant) as client:
        try:
            identity = client.whoami()
        except BerthError as error:
            yield fail("key", str(error), "berth login")
            return
        whose = f"of tenant {identity.tenant}" if identity.tenant else "of the platform"
        yield ok("key", f"{whose}, role {identity.role}")
        if identity.tenant:
            yield from _versions(client)
        else:
            yield from _jobs(client)


def _answers(check: str, url: str, remedy: str) -> Finding:
    try:
        status = httpx.get(url, timeout=_TIMEOUT_S).status_code
    except httpx.HTTPError as error:
        return fail(check, f"{url} cannot be reached: {error}", remedy)
    if status == httpx.codes.OK:
        return ok(check, f"{url} is ready")
    return fail(check, f"{url} answers {status}: it runs and is not ready", "its log says what it waits for")


def _jobs(client: Berth) -> Iterator[Finding]:
    jobs = client.jobs.list()
    connected: dict[str, int] = {}
    for replica in client.replicas():
        if replica.connected:
            connected[replica.job] = connected.get(replica.job, 0) + 1
    if not jobs:
        yield warn("jobs", "there are none: nothing can be placed", "berth job create, or a worker pool in the chart")
    for job in jobs:
        there = connected.get(job.name, 0)
        said = f"{there} of {job.replicas} replicas are connected"
        if there >= job.replicas:
            yield ok(f"job {job.name}", said)
        else:
            yield fail(f"job {job.name}", said, "see the workers' logs; berth status")


def _versions(client: Berth) -> Iterator[Finding]:
    for model in client.models.list():
        for version in client.versions.list(model.name):
            if version.state not in _PROMISED:
                said = f"{version.state}: {version.reason or 'no reason given yet'}"
                yield warn(f"{model.name} version {version.version}", said, "berth model show, berth events")
