"""`berth up`: a stack in the foreground, its progress, its endpoints, and what to try next."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from berth.local.blueprint import StackOptions
from berth.local.home import Home
from berth.local.journal import log_to
from berth.local.stack import STACK_ERRORS, Stack, open_stack
from berth.local.supervisor import ChildState, ChildView, ProgramFailed

Say = Callable[[str], None]


def run_up(options: StackOptions, say: Say) -> int:
    """Run a stack until SIGINT or SIGTERM; the result is the exit status. A second signal ends it at once."""
    return asyncio.run(_up(options, say))


async def _up(options: StackOptions, say: Say) -> int:
    task = asyncio.current_task()
    asked = False

    def on_signal() -> None:
        nonlocal asked
        if asked or task is None:
            # The children are told by the kernel that we are gone, and drain by themselves.
            os._exit(1)
        asked = True
        say("\nStopping: requests under way are finished first (once more to end at once).")
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    log_to(Home(options.root).log("supervisor"))
    say(f"Berth is starting in {options.root}")
    try:
        async with open_stack(options, _reporter(say), say) as stack:
            for line in welcome(stack, options):
                say(line)
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not asked:
            raise
    except STACK_ERRORS as error:
        more = f"; what it said is in {options.root / 'logs'}" if isinstance(error, ProgramFailed) else ""
        say(f"berth up: {error}{more}")
        return 1
    say("Stopped.")
    return 0


def _reporter(say: Say) -> Callable[[ChildView], None]:
    """Says when a program is ready for the first time, and later only what is out of the ordinary."""
    began = time.monotonic()
    seen: set[str] = set()

    def report(view: ChildView) -> None:
        match view.state:
            case ChildState.READY if view.name not in seen:
                seen.add(view.name)
                say(f"  {view.name:<28} ready at {time.monotonic() - began:5.2f} s")
            case ChildState.READY:
                say(f"  {view.name:<28} is ready again after {view.ready_after_s or 0:.2f} s, pid {view.pid}")
            case ChildState.WAITING:
                say(f"  {view.name:<28} ended unasked ({view.reason}) and is started again")
            case ChildState.FAILED:
                say(f"  {view.name:<28} is given up: {view.reason}")

    return report


def welcome(stack: Stack, options: StackOptions) -> list[str]:
    """What a person needs to know now. The commands at the end work as they are printed."""
    endpoints = stack.endpoints
    return [
        f"Ready in {stack.started_in_s:.1f} s; {stack.serving} model versions are being served.",
        *_moved_ports(stack, options),
        "",
        *(f"  control API      {url}" for url in endpoints.controllers),
        *(f"  inference REST   {url}" for url in endpoints.rest),
        *(f"  inference gRPC   {target}" for target in endpoints.grpc),
        f"  admin key        {stack.admin_key}   (in {_shown(stack.home.admin_key)})",
        f"  developer key    in {_shown(stack.home.default_key)}, of the tenant `default`",
        "",
        "Try it in another terminal:",
        *(f"  {command}" for command in next_commands(stack)),
        "",
        "Ctrl-C drains and stops everything; the data stays.",
    ]


def next_commands(stack: Stack) -> tuple[str, str, str]:
    """One command each for curl, the command line, and Python."""
    key = shlex.quote(_shown(stack.home.default_key))
    controller, router = stack.endpoints.controllers[0], stack.endpoints.rest[0]
    program = (
        "from berth.client import Berth; "
        f"print(Berth(open({json.dumps(_shown(stack.home.default_key))}).read().strip(), "
        f"controller={json.dumps(controller)}, router={json.dumps(router)}).models.list())"
    )
    return (
        f'curl -s -H "Authorization: Bearer $(cat {key})" {router}/v2',
        f"{_command('berth')} login --controller {controller} --router {router} --key-file {key} "
        f"&& {_command('berth')} model list",
        f"{_command('python')} -c {shlex.quote(program)}",
    )


def _moved_ports(stack: Stack, options: StackOptions) -> list[str]:
    wishes = {
        options.controller_port: stack.endpoints.controllers[0],
        options.http_port: stack.endpoints.rest[0],
        options.grpc_port: stack.endpoints.grpc[0],
    }
    return [
        f"Port {port} is taken by another program: using {got.rpartition(':')[2]} instead."
        for port, got in wishes.items()
        if not got.endswith(f":{port}")
    ]


def _shown(path: Path) -> str:
    """`path` as a person in this folder would write it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _command(name: str) -> str:
    """The program of this environment: by name where the shell would find just that, else by path."""
    ours = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    return name if found is not None and Path(found).absolute() == ours else shlex.quote(_shown(ours))
