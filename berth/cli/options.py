"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from berth.cli.units import parse_size

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Whose things are meant; needed with a platform key.")]
ModelName = Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")]
VersionNumber = Annotated[int, typer.Argument(help="Number of the version.", metavar="VERSION", min=1)]
JobName = Annotated[str, typer.Argument(help="Name of the job.", metavar="JOB")]


def checked_size(text: str, option: str) -> int:
    """Bytes of a size such as 1GiB; a wrong one is a wrong use of `option`."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def checked_runtime(name: str) -> str:
    """The name of a runtime that exists."""
    from berth.states import Runtime

    if name not in list(Runtime):
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(Runtime)}", param_hint="--runtime")
    return name


Memory = Annotated[str, typer.Option("--memory", help="Memory of each replica, such as 512MiB or 2GiB.")]
RuntimeName = Annotated[str, typer.Option("--runtime", help="onnxruntime or triton.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="File that holds the API key; without it you are asked for the key."),
]


def group(help: str) -> typer.Typer:
    """A group of commands, which shows its help when it is called bare."""
    return typer.Typer(help=help, no_args_is_help=True)
