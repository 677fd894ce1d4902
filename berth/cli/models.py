"""Commands about models, versions and labels, and inference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from berth.cli.options import AsJson, ModelName, Tenant, VersionNumber, group
from berth.cli.output import console, print_json, print_one, print_table
from berth.cli.session import connect
from berth.cli.units import show_age, show_size

if TYPE_CHECKING:
    from berth.api.schemas import Model, Version
    from berth.client.calls import Progress

model = group("Upload and look at models.")
version = group("Choose which versions serve.")
label = group("Names such as `stable` that point at a version.")

VERSION_COLUMNS = ("version", "state", "replicas", "job", "size", "memory", "age", "reason")


@model.command("upload")
def upload_model(
    name: ModelName,
    file: Annotated[Path, typer.Argument(help="The ONNX file.", exists=True, dir_okay=False, readable=True)],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the version can be queried.")] = False,
    timeout: Annotated[float, typer.Option(help="Longest wait, in seconds.", min=0)] = 120.0,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Upload FILE as the next version of MODEL, which is created if there is none."""
    with connect(tenant) as client:
        with _progress_bar(file.name) as progress:
            made = client.versions.upload(name, file, progress=progress)
        if wait:
            if not as_json:
                console().print(f"uploaded {name} version {made.version}; waiting until it is available")
            made = client.wait_available(name, made.version, timeout)
    if as_json:
        print_json(made)
    else:
        console().print(f"{name} version {made.version} is {made.state}, on job {made.job}")


@model.command("list")
def list_models(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """List models."""
    with connect(tenant) as client:
        models = client.models.list()
    if as_json:
        print_json(models)
        return
    rows = [(m.name, _serving(m), m.latest_version or "", _labels(m), m.description) for m in models]
    print_table(("name", "serves", "latest", "labels", "description"), rows, empty="There are no models yet.")


@model.command("show")
def show_model(name: ModelName, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Show a model, its versions and the signature of the newest."""
    with connect(tenant) as client:
        found = client.models.get(name)
        versions = client.versions.list(name)
    if as_json:
        print_json({"model": found, "versions": versions})
        return
    print_one(found)
    print_versions(versions, title="Versions")
    if versions:
        newest = max(versions, key=lambda one: one.version).signature
        rows = [("input", t.name, t.datatype, t.shape) for t in newest.inputs]
        rows += [("output", t.name, t.datatype, t.shape) for t in newest.outputs]
        print_table(("", "tensor", "datatype", "shape"), rows, empty="", title="Signature (-1: any)")


@model.command("cells")
def set_cells(
    name: ModelName,
    cells: Annotated[
        list[str] | None, typer.Argument(metavar="[CELL]...", help="None: one cell, whichever has room.")
    ] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Have a copy of the model in each CELL. Copies elsewhere leave when each of them answers."""
    with connect(tenant) as client:
        found = client.models.set_cells(name, cells or [])
    _print_model(found, as_json)


@model.command("default-answer")
def set_default_answer(
    name: ModelName,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help='JSON: {"outputs": […]}. None: remove it.')
    ] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Answer with FILE's outputs when no replica answers in time, instead of with an error."""
    from pydantic import ValidationError

    from berth.api.schemas import DefaultAnswer

    try:
        answer = None if file is None else DefaultAnswer.model_validate_json(file.read_text())
    except ValidationError as error:
        raise typer.BadParameter(f"{file}: {error.errors()[0]['msg']}", param_hint="FILE") from None
    with connect(tenant) as client:
        found = client.models.set_default_answer(name, answer)
    _print_model(found, as_json)


@model.command("delete")
def delete_model(
    name: ModelName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    tenant: Tenant = None,
) -> None:
    """Delete a model with all its versions. Requests under way are finished first."""
    if not yes:
        typer.confirm(f"Delete model {name} and all its versions?", abort=True)
    with connect(tenant) as client:
        client.models.delete(name)
    console().print(f"{name} is deleted")


@version.command("list")
def list_versions(name: ModelName, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """List a model's versions with what is observed of them now."""
    with connect(tenant) as client:
        versions = client.versions.list(name)
    if as_json:
        print_json(versions)
    else:
        print_versions(versions)


@version.command("pin")
def pin_version(name: ModelName, number: VersionNumber, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Answer requests that name no version with VERSION, until unpinned. This is also how to roll back."""
    with connect(tenant) as client:
        found = client.models.pin(name, number)
    _print_model(found, as_json)


@version.command("unpin")
def unpin_version(name: ModelName, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Answer with the newest version again."""
    with connect(tenant) as client:
        found = client.models.unpin(name)
    _print_model(found, as_json)


@version.command("delete")
def delete_version(name: ModelName, number: VersionNumber, tenant: Tenant = None) -> None:
    """Delete a version. Requests under way are finished first."""
    with connect(tenant) as client:
        client.versions.delete(name, number)
    console().print(f"{name} version {number} is deleted")


@label.command("set")
def set_label(
    name: ModelName,
    label_name: Annotated[str, typer.Argument(metavar="LABEL", help="Such as `stable` or `canary`.")],
    number: VersionNumber,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Point LABEL at VERSION."""
    with connect(tenant) as client:
        found = client.models.set_label(name, label_name, number)
    _print_model(found, as_json)


@label.command("delete")
def delete_label(
    name: ModelName,
    label_name: Annotated[str, typer.Argument(metavar="LABEL", help="The label; its version stays.")],
    tenant: Tenant = None,
) -> None:
    """Remove LABEL."""
    with connect(tenant) as client:
        client.models.delete_label(name, label_name)
    console().print(f"{name} has no label {label_name} any more")


def infer(
    name: ModelName,
    *,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", "-i", help="NAME=JSON, NAME=@FILE.npy or NAME=@FILE.json; once for each input of the model."
        ),
    ],
    of_version: Annotated[str | None, typer.Option("--version", help="A number or a label.")] = None,
    outputs: Annotated[list[str] | None, typer.Option("--output", "-o", help="Only these outputs.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Deadline in seconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a model through the router. A tenant's key is needed.

    Example: berth infer digits --input 'x=[[0, 1, 2, 3]]'
    """
    from berth.cli.tensors import listed, read_inputs

    with connect() as client:
        datatypes = client.input_datatypes(name, of_version)
        answer = client.infer_traced(
            name, read_inputs(inputs, datatypes), of_version, outputs=outputs or (), timeout=timeout
        )
    if as_json:
        tensors = {key: listed(array) for key, array in answer.outputs.items()}
        print_json({"outputs": tensors, "version": answer.version, "replica": answer.replica})
        return
    for key, array in answer.outputs.items():
        console().print(f"{key}  {array.dtype}  {list(array.shape)}\n{array}", markup=False)
    console().print(f"version {answer.version}, answered by {answer.replica}", style="dim")


def print_versions(versions: list[Version], title: str = "") -> None:
    rows = [version_row(one) for one in sorted(versions, key=lambda one: -one.version)]
    print_table(VERSION_COLUMNS, rows, empty="There are no versions yet.", title=title)


def version_row(one: Version) -> tuple[object, ...]:
    """Cells for `VERSION_COLUMNS`."""
    counts = one.replicas
    memory = one.measured_bytes if one.measured_bytes is not None else one.estimated_bytes
    return (
        one.version,
        one.state,
        f"{counts.available}/{counts.total}" if counts.total else "",
        one.job or "",
        show_size(one.size_bytes),
        show_size(memory),
        show_age(one.created_at),
        one.reason,
    )


def _serving(found: Model) -> str:
    return f"{found.serving.version} (pinned)" if found.serving.policy == "pinned" else "latest"


def _labels(found: Model) -> str:
    return ", ".join(f"{name}={number}" for name, number in sorted(found.labels.items()))


def _print_model(found: Model, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        console().print(f"{found.name} serves {_serving(found)}; labels: {_labels(found) or 'none'}")


class _progress_bar:  # noqa: N801 - used as a statement
    """A bar on standard error while a file is sent; nothing where that is no terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(title, total=None)

    def __enter__(self) -> Progress:
        self._bar.start()
        return lambda sent, total: self._bar.update(self._task, completed=sent, total=total)

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()
