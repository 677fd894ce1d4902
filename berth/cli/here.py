"""Commands that act on this machine: logging in, the local stack, the demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from berth.cli.options import KeyFile, RuntimeName, checked_runtime, checked_size
from berth.cli.output import console


def login(
    controller: Annotated[
        str | None, typer.Option(help="Base URL of the control API; $BERTH_CONTROLLER, or that of the last login.")
    ] = None,
    router: Annotated[
        str | None, typer.Option(help="Base URL of inference over REST; $BERTH_ROUTER, or that of the last login.")
    ] = None,
    key_file: KeyFile = None,
    tenant: Annotated[str | None, typer.Option(help="Whose things are meant, with a platform key.")] = None,
) -> None:
    """Check a key and store it for later commands, readable for you alone."""
    from berth.cli.session import NotLoggedIn, Session, load, store
    from berth.client import Berth
    from berth.settings import environment

    try:
        before = load(environment())
    except NotLoggedIn:
        # What was stored cannot be understood; this is what replaces it.
        before = Session()
    controller, router = controller or before.controller, router or before.router
    if key_file is not None:
        key = (sys.stdin.read() if str(key_file) == "-" else key_file.read_text()).strip()
    else:
        key = typer.prompt("API key", hide_input=True).strip()
    with Berth(key, controller=controller, router=router) as client:
        identity = client.whoami()
    path = store(Session(controller, router, key, tenant), environment())
    whose = f"tenant {identity.tenant}" if identity.tenant else "the platform"
    console().print(f"logged in with a key of {whose}, role {identity.role}; stored in {path}")


def up(
    *,
    directory: Annotated[Path, typer.Option("--dir", help="Where data, keys and logs live.")] = Path(".berth"),
    workers: Annotated[
        int | None, typer.Option(min=0, help="Workers; without it as many as last time, 2 at first.")
    ] = None,
    routers: Annotated[int, typer.Option(min=1, help="Routers, each with ports of its own.")] = 1,
    synchronizers: Annotated[int, typer.Option(min=1, help="Synchronizers; one is active.")] = 1,
    controllers: Annotated[int, typer.Option(min=1, help="Controllers.")] = 1,
    runtime: RuntimeName = "onnxruntime",
    memory_per_worker: Annotated[str, typer.Option(help="Such as 1GiB; counts for a new job.")] = "1GiB",
    http_port: Annotated[int, typer.Option(help="Inference over REST.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Inference over gRPC.")] = 8001,
    controller_port: Annotated[int, typer.Option(help="Control API.")] = 8080,
) -> None:
    """Start a whole Berth on this machine and leave it running until Ctrl-C.

    PostgreSQL is started too, unless BERTH_DATABASE_URL names another. Ports that are taken are replaced by the next
    free ones. A second `up` on the same folder brings every model back.
    """
    from berth.local.blueprint import StackOptions
    from berth.local.up import run_up
    from berth.settings import environment

    environ = environment()
    options = StackOptions(
        root=directory.absolute(),
        workers=workers,
        routers=routers,
        synchronizers=synchronizers,
        controllers=controllers,
        runtime=checked_runtime(runtime),
        memory_per_worker=checked_size(memory_per_worker, "--memory-per-worker"),
        http_port=http_port,
        grpc_port=grpc_port,
        controller_port=controller_port,
        database_url=environ.get("BERTH_DATABASE_URL"),
        environ=environ,
    )
    raise typer.Exit(run_up(options, lambda line: print(line, flush=True)))


def demo(
    runtime: RuntimeName = "onnxruntime",
    directory: Annotated[Path, typer.Option("--dir", help="Its own folder, emptied at the start.")] = Path(
        ".berth-demo"
    ),
) -> None:
    """Do the main job on real data: train, upload, query, replace under load, survive a kill; then stop."""
    from berth.demo.run import run_demo

    raise typer.Exit(run_demo(directory.absolute(), checked_runtime(runtime)))
