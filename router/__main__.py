"""`python -m router`: composes the process, and takes it down in order."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from berth.process import run
from berth.settings import SettingsError, environment, variable_name
from router import memory
from router.listening.shared_ports import RouterPorts
from router.settings import RouterSettings

if TYPE_CHECKING:  # heavy: not for `--help`, nor for the parent of several processes
    from router.compose import Router
    from router.listening.listener import Listening

log = structlog.get_logger(__name__)

# A live feed brings the table within milliseconds; only when none is there does the one on disk count.
_FEED_GRACE = 1.0


async def serve(
    settings: RouterSettings, stop: asyncio.Event, on_listening: Callable[[RouterPorts], None] = lambda _: None
) -> None:
    """Route requests until `stop` is set, then drain. `on_listening` is told the ports once clients may come."""
    from prometheus_client import CollectorRegistry

    from berth.admin import serve_admin
    from berth.auth.peer import PeerCredential
    from berth.tracing import open_tracing
    from router.compose import compose
    from router.listening.listener import client_certificates, client_tls

    credential = PeerCredential.from_settings(settings)
    tracing = open_tracing(settings, "router")
    registry = CollectorRegistry()
    router = compose(settings, registry, credential, tracing)
    shown = client_certificates(settings.client_tls_cert, settings.client_tls_key)
    credential.register(registry, **({} if shown is None else {"clients": shown}))

    def not_ready() -> str | None:
        if stop.is_set():
            return "stopping"
        return None if router.board.ready else "no route table yet"

    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(_background(router))
        if tracing is not None:
            stack.push_async_callback(tracing.close)
        stack.callback(router.close)
        pages = {"/debug/routes": router.debug.routes, "/debug/hedging": router.debug.hedges}
        admin_port = await stack.enter_async_context(
            serve_admin(settings.admin_address, not_ready, registry, documents=pages, credential=credential)
        )
        await _first_table(router, settings, tasks, stack)
        stack.callback(router.clients.close)
        tls = None if shown is None else client_tls(shown)
        listening = await stack.enter_async_context(_open_ports(router, settings, not_ready, tls))
        router.clients.start()
        log.info("listening", rest_port=listening.rest, grpc_port=listening.grpc, admin_port=admin_port)
        on_listening(RouterPorts(listening.rest, listening.grpc, admin_port))
        await stop.wait()
        # First no new connections, so that clients who are told to go connect elsewhere.
        listening.close()
        await router.clients.drain(settings.drain_s)


@asynccontextmanager
async def _background(router: Router) -> AsyncIterator[asyncio.TaskGroup]:
    """The tasks of the process. One that ends unasked ends it; a wrong setting goes out as it is, not in a group."""
    refused: SettingsError | None = None
    async with asyncio.TaskGroup() as tasks:
        router.owned_by(tasks)
        running = (
            tasks.create_task(router.feed.run(), name="feed"),
            tasks.create_task(router.upstreams.run(), name="upstreams"),
        )
        try:
            yield tasks
        except SettingsError as error:
            refused = error
        finally:
            for task in running:
                task.cancel()
    if refused is not None:
        raise refused


async def _first_table(
    router: Router, settings: RouterSettings, tasks: asyncio.TaskGroup, stack: AsyncExitStack
) -> None:
    """Begin with the table on disk if no feed brings one soon; from then on keep the newest there."""
    from router.control.table_file import keep_table, load_table

    if settings.state_dir is None:
        return
    board = router.board
    changes = board.changes.waiter()
    if not board.ready:
        await changes.wait(_FEED_GRACE)
    if not board.ready and (saved := load_table(settings.state_dir)) is not None:
        log.warning("no route feed answers: serving from the table on disk", models=len(saved.models))
        board.swap(saved)
    stack.callback(tasks.create_task(keep_table(board, settings.state_dir), name="table file").cancel)


def _open_ports(
    router: Router, settings: RouterSettings, not_ready: Callable[[], str | None], tls: ssl.SSLContext | None
) -> AbstractAsyncContextManager[Listening]:
    """The clients' ports: this process's own, or those that it shares with its siblings."""
    from router.listening.listener import listen, share

    if settings.inherited is None:
        return listen(router.clients, settings.http_address, settings.grpc_address, tls=tls)
    return share(router.clients, settings.inherited, lambda: not_ready() is None, tls=tls)


def main() -> None:
    environ, arguments = dict(environment()), sys.argv[1:]
    if arguments[:1] == ["--processes"]:
        # The one setting that is given by hand often enough.
        environ[variable_name("processes")] = "".join(arguments[1:2])
        arguments = arguments[2:]

    async def serve_or_supervise(settings: RouterSettings, stop: asyncio.Event) -> None:
        if settings.processes > 1:
            from router.processes import supervise

            await supervise(environ, settings, stop)
        else:
            await serve(settings, stop, _on_listening(settings))

    sys.exit(run("router", RouterSettings, serve_or_supervise, environ, arguments, _loop_factory()))


def _on_listening(settings: RouterSettings) -> Callable[[RouterPorts], None]:
    def act(ports: RouterPorts) -> None:
        memory.keep_freed()
        memory.settle()
        if settings.shared_ports:
            # The parent is waiting for this line.
            print(json.dumps(ports._asdict()), flush=True)

    return act


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    main()
