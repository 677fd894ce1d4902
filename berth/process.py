"""How a Berth process starts and ends.

Every component's `__main__` calls `run` once. The first SIGTERM or SIGINT asks `serve` to end, the second ends the
process. A `serve` that returns unasked, or raises, ends the process with a failure, and something restarts it. A
half-dead process that looks alive is worse than a dead one.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import structlog

from berth.settings import ProcessSettings, SettingsError
from berth.telemetry import configure_logging

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=ProcessSettings)

EXIT_SETTINGS = 64  # EX_USAGE of sysexits.h
_PR_SET_PDEATHSIG = 1


def run(
    component: str,
    settings_class: type[S],
    serve: Callable[[S, asyncio.Event], Awaitable[None]],
    environ: Mapping[str, str],
    arguments: list[str],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run `serve(settings, stop)` until it returns; the result is the exit status.

    `arguments` other than `--help` are refused. Settings come from the environment, so that neither settings nor
    secrets show in a process list. `loop_factory` makes another event loop than asyncio's own.
    """
    if arguments:
        if arguments in (["--help"], ["-h"]):
            _print_usage(usage(component, settings_class))
            return 0
        print(f"{component}: unknown arguments {arguments}; settings are environment variables, see --help")
        return EXIT_SETTINGS
    try:
        settings = settings_class.load(environ)
    except SettingsError as error:
        print(f"{component}: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    if settings.parent_pid:
        _die_with(settings.parent_pid)
    configure_logging(component, settings.instance, settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_main(component, settings, serve))


def usage(component: str, settings_class: type[ProcessSettings]) -> str:
    """The text of `--help`: every environment variable with its default and reason."""
    lines = [f"usage: python -m {component}", "", "Settings are environment variables:"]
    for variable in settings_class.variables():
        lines += [f"  {variable.name} (default: {variable.default})", f"      {variable.description}"]
    return "\n".join(lines)


async def _main(component: str, settings: S, serve: Callable[[S, asyncio.Event], Awaitable[None]]) -> int:
    stop = asyncio.Event()

    def ask_to_stop() -> None:
        if stop.is_set():
            log.warning("asked to stop twice: ending now")
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop)
    log.info("starting", pid=os.getpid())
    try:
        await serve(settings, stop)
    except BaseException as error:
        wrong = _settings_error(error)
        if wrong is not None:
            print(f"{component}: {wrong}", file=sys.stderr)
            return EXIT_SETTINGS
        log.exception("ended by an error")
        return 1
    if not stop.is_set():
        log.error("ended unasked")
        return 1
    log.info("stopped")
    return 0


def _print_usage(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # `--help | head`: whoever read us has enough. What is left in the buffer must not be tried again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _settings_error(error: BaseException) -> SettingsError | None:
    """The wrong setting that `error` is, alone or as the only thing in a task group's."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, SettingsError) else None


def _die_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent dies; end at once if that has happened already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)
