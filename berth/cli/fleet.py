"""Commands for operators: tenants, keys, jobs, what runs where, and what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from berth.cli.models import VERSION_COLUMNS, version_row
from berth.cli.options import AsJson, JobName, Memory, RuntimeName, Tenant, checked_runtime, checked_size, group
from berth.cli.output import console, print_json, print_json_line, print_one, print_table
from berth.cli.session import connect
from berth.cli.units import show_age, show_size

if TYPE_CHECKING:
    from berth.api.schemas import Event, Job, Replica, Version
    from berth.client import Berth

tenant = group("Create and list tenants (platform keys).")
key = group("Create, list and revoke API keys (platform keys).")
job = group("Groups of replicas that hold models (platform keys).")

_EVENT_COLUMNS = ("id", "at", "tenant", "kind", "subject", "by", "details")


@tenant.command("create")
def create_tenant(name: Annotated[str, typer.Argument(metavar="TENANT")], as_json: AsJson = False) -> None:
    """Create a tenant with the default quota."""
    with connect() as client:
        made = client.tenants.create(name)
    if as_json:
        print_json(made)
    else:
        console().print(f"tenant {made.name} is created; next: berth key create developer --tenant {made.name}")


@tenant.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List tenants and their quotas."""
    with connect() as client:
        tenants = client.tenants.list()
    if as_json:
        print_json(tenants)
        return
    rows = [(t.name, t.quota.max_models, show_size(t.quota.max_bytes), show_age(t.created_at)) for t in tenants]
    print_table(("name", "max models", "max bytes", "age"), rows, empty="There are no tenants yet.")


@tenant.command("limit")
def limit_tenant(
    name: Annotated[str, typer.Argument(metavar="TENANT")],
    max_models: Annotated[int | None, typer.Option(min=0, help="Models that it may have.")] = None,
    max_bytes: Annotated[str | None, typer.Option(metavar="SIZE", help="Artifacts, together. Such as 10GiB.")] = None,
    requests_per_second: Annotated[float | None, typer.Option(min=0, help="0: unlimited.")] = None,
    bytes_per_second: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of request bodies. Such as 50MiB; 0: unlimited.")
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=0, help="Requests at once. 0: unlimited.")] = None,
    weight: Annotated[float | None, typer.Option(help="Its share of a router that is full. 1 by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change what a tenant may have and send. What is not given stays."""
    given = {
        "max_models": max_models,
        "max_bytes": None if max_bytes is None else checked_size(max_bytes, "--max-bytes"),
        "requests_per_second": requests_per_second,
        "bytes_per_second": None if bytes_per_second is None else checked_size(bytes_per_second, "--bytes-per-second"),
        "max_concurrent": max_concurrent,
        "weight": weight,
    }
    with connect() as client:
        found = client.tenants.get(name)
        quota = type(found.quota).model_validate(
            found.quota.model_dump() | {option: value for option, value in given.items() if value is not None}
        )
        changed = client.tenants.update(name, quota, etag=found.etag)
    if as_json:
        print_json(changed)
    else:
        print_one(changed)


@key.command("create")
def create_key(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="admin, operator, developer or viewer.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it, this once. admin and operator are platform roles; the others need --tenant."""
    from berth.states import Role

    if role not in list(Role):
        raise typer.BadParameter(f"{role!r} is not one of {', '.join(Role)}", param_hint="ROLE")
    with connect(tenant) as client:
        made = client.keys.create(role, description)
    if as_json:
        print_json(made)
        return
    print_one(made, leave_out=frozenset({"secret"}))
    console().print(f"\n{made.secret}\n\nThis is the only time it is shown.")


@key.command("list")
def list_keys(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """List keys: the tenant's with --tenant, the platform's without."""
    with connect(tenant) as client:
        keys = client.keys.list()
    if as_json:
        print_json(keys)
        return
    rows = [(k.id, k.role, k.description, show_age(k.created_at), "revoked" if k.revoked_at else "") for k in keys]
    print_table(("id", "role", "description", "age", ""), rows, empty="There are no keys.")


@key.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID")], tenant: Tenant = None) -> None:
    """Revoke a key; it stops working within a second or so."""
    with connect(tenant) as client:
        client.keys.revoke(key_id)
    console().print(f"key {key_id} is revoked")


@job.command("create")
def create_job(
    name: JobName,
    *,
    runtime: RuntimeName = "onnxruntime",
    replicas: Annotated[int, typer.Option(help="How many workers.", min=0)] = 1,
    memory: Memory = "1GiB",
    cell: Annotated[str, typer.Option(help="Cell it runs in.")] = "local",
    dedicated: Annotated[str | None, typer.Option("--dedicated", help="Hold models of this tenant alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a job. With `berth up` its workers are started at once."""
    memory_per_replica = checked_size(memory, "--memory")
    with connect() as client:
        made = client.jobs.create(
            name,
            runtime=checked_runtime(runtime),
            replicas=replicas,
            memory_per_replica=memory_per_replica,
            cell=cell,
            dedicated_tenant=dedicated,
        )
    _print_job(made, as_json)


@job.command("list")
def list_jobs(as_json: AsJson = False) -> None:
    """List jobs and how full they are."""
    with connect() as client:
        jobs = client.jobs.list()
    if as_json:
        print_json(jobs)
    else:
        _print_jobs(jobs)


@job.command("scale")
def scale_job(
    name: JobName,
    replicas: Annotated[int, typer.Argument(metavar="REPLICAS", min=0)],
    as_json: AsJson = False,
) -> None:
    """Change how many workers a job has; those too many finish what they are doing first."""
    with connect() as client:
        _print_job(client.jobs.update(name, replicas=replicas), as_json)


@job.command("delete")
def delete_job(name: JobName) -> None:
    """Delete a job that holds no version."""
    with connect() as client:
        client.jobs.delete(name)
    console().print(f"job {name} is deleted")


def show_status(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Show jobs, replicas and versions with their states and reasons; a tenant's key sees its own versions."""
    with connect(tenant) as client:
        platform = client.whoami().role.is_platform
        jobs = client.jobs.list() if platform else []
        replicas = client.replicas() if platform else []
        versions = list(_versions(client, tenant, platform=platform))
    if as_json:
        print_json({"jobs": jobs, "replicas": replicas, "versions": versions})
        return
    if platform:
        _print_jobs(jobs, title="Jobs")
        _print_replicas(replicas)
    rows = [(f"{one.tenant}/{one.model}", *version_row(one)) for one in versions]
    print_table(("model", *VERSION_COLUMNS), rows, empty="There are no models yet.", title="Versions")


def show_events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")] = False,
    after: Annotated[int | None, typer.Option(help="Only those after this event.")] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened, oldest first; with --json one object a line."""
    with connect(tenant) as client:
        if not follow:
            events = [event for event in client.events.list() if after is None or event.id > after]
            if as_json:
                for event in events:
                    print_json_line(event)
            else:
                print_table(_EVENT_COLUMNS, map(_event_row, events), empty="Nothing happened yet.")
            return
        for event in client.events.follow(after):
            if as_json:
                print_json_line(event)
            else:
                console().print("  ".join(str(cell) for cell in _event_row(event) if cell != ""), markup=False)


def _versions(client: Berth, tenant: str | None, *, platform: bool) -> list[Version]:
    if tenant is not None or not platform:
        owners = [client]
    else:
        owners = [client.of(owner.name) for owner in client.tenants.list()]
    return [version for owner in owners for model in owner.models.list() for version in owner.versions.list(model.name)]


def _print_job(made: Job, as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        _print_jobs([made])


def _print_jobs(jobs: list[Job], title: str = "") -> None:
    rows = [
        (
            j.name,
            j.runtime,
            j.replicas,
            show_size(j.memory_per_replica),
            f"{100 * j.reserved_bytes / j.memory_per_replica:.0f} %",
            j.dedicated_tenant or "shared",
            j.cell,
        )
        for j in jobs
    ]
    columns = ("name", "runtime", "replicas", "memory each", "reserved", "for", "cell")
    print_table(columns, rows, empty="There are no jobs yet.", title=title)


def _print_replicas(replicas: list[Replica]) -> None:
    rows = [
        (
            r.name,
            r.job,
            "draining" if r.draining else "ready" if r.connected else "failed",
            f"{show_size(r.memory_used)} of {show_size(r.memory_limit)}",
            sum(servable.routed for servable in r.servables),
            r.in_flight,
            "; ".join(f"{s.model}:{s.version}: {s.reason}" for s in r.servables if s.reason),
        )
        for r in replicas
    ]
    columns = ("replica", "job", "state", "memory", "serves", "in flight", "reason")
    print_table(columns, rows, empty="No replica has been seen yet.", title="Replicas")


def _is_for_a_row(name: str, value: object) -> bool:
    """What is left out is long, or says again what the rest says; `--json` shows it."""
    return name not in ("after", "from", "request_id") and not (name == "before" and isinstance(value, dict))


def _event_row(event: Event) -> tuple[object, ...]:
    details = ", ".join(f"{name}={value}" for name, value in event.data.items() if _is_for_a_row(name, value))
    at = event.at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return event.id, at, event.tenant or "", event.kind, event.subject, event.actor, details
