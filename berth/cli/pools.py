"""Commands for pools: how many replicas a job has, who decides, and why. On Kubernetes a job is a pool of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from berth.cli.options import AsJson, JobName, group
from berth.cli.output import console, print_json, print_one, print_table
from berth.cli.session import connect

if TYPE_CHECKING:
    from berth.api.schemas import Job

pool = group("Pools of workers: how many replicas, who decides, and why (platform keys).")

_COLUMNS = ("pool", "cell", "workload", "replicas", "ready", "scaling", "within", "wants", "reason")


@pool.command("list")
def list_pools(as_json: AsJson = False) -> None:
    """List pools with what they are told to have, what the autoscaler finds right, and why."""
    with connect() as client:
        jobs = client.jobs.list()
    if as_json:
        print_json(jobs)
    else:
        print_table(_COLUMNS, map(_row, jobs), empty="There are no pools yet.")


@pool.command("show")
def show_pool(name: JobName, as_json: AsJson = False) -> None:
    """Show all that is known of a pool."""
    with connect() as client:
        found = client.jobs.get(name)
    if as_json:
        print_json(found)
    else:
        print_one(found)


@pool.command("scale")
def scale_pool(
    name: JobName,
    replicas: Annotated[int, typer.Argument(metavar="REPLICAS", min=0)],
    as_json: AsJson = False,
) -> None:
    """Ask a pool's workload to have so many replicas; refused where an autoscaler decides."""
    with connect() as client:
        found = client.jobs.update(name, replicas=replicas)
    if as_json:
        print_json(found)
        return
    if found.wished_replicas is None:
        console().print(f"pool {name} has {found.replicas if found.observed is None else found.observed.replicas}")
    else:
        console().print(f"pool {name} is asked to have {found.wished_replicas}; see: berth pool show {name}")


@pool.command("autoscale")
def autoscale_pool(
    name: JobName,
    *,
    mode: Annotated[
        str | None, typer.Option(help="manual (kubectl scale), berth (the autoscaler), external (HPA or KEDA).")
    ] = None,
    least: Annotated[int | None, typer.Option("--min", help="Least replicas.", min=0)] = None,
    most: Annotated[int | None, typer.Option("--max", help="Most replicas.", min=1)] = None,
    target_queue_ms: Annotated[
        float | None, typer.Option(help="How long a request may wait on a replica, in milliseconds.")
    ] = None,
    stabilize_down_s: Annotated[
        float | None, typer.Option(help="Fewer replicas only after there were too many for so many seconds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say who decides how many replicas a pool has, and within what; what is left out stays."""
    from berth.states import ScalingMode

    if mode is not None and mode not in list(ScalingMode):
        raise typer.BadParameter(f"{mode!r} is not one of {', '.join(ScalingMode)}", param_hint="--mode")
    asked: dict[str, Any] = {
        "mode": mode,
        "min_replicas": least,
        "max_replicas": most,
        "target_queue_ms": target_queue_ms,
        "stabilize_down_s": stabilize_down_s,
    }
    scaling = {member: value for member, value in asked.items() if value is not None}
    if not scaling:
        raise typer.BadParameter("say what is to change, such as --mode berth --min 1 --max 20")
    with connect() as client:
        found = client.jobs.update(name, scaling=scaling)
    if as_json:
        print_json(found)
    else:
        print_table(_COLUMNS, [_row(found)], empty="")


def _row(job: Job) -> tuple[object, ...]:
    wants = job.desired_replicas if job.desired_replicas is not None else job.wished_replicas
    return (
        job.name,
        job.cell,
        job.observed.workload if job.observed is not None else "",
        job.observed.replicas if job.observed is not None else job.replicas,
        job.observed.ready if job.observed is not None else "",
        job.scaling.mode,
        f"{job.scaling.min_replicas} to {job.scaling.max_replicas}" if job.scaling.mode != "manual" else "",
        "" if wants is None else wants,
        job.file_problem or job.desired_reason,
    )
