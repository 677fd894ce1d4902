"""The fake cluster as a process: `python -m doubles.kubernetes --port 0 --kubeconfig PATH`.

Prints one line of JSON with its URL when it serves, and stops on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from pathlib import Path

from doubles.kubernetes.server import FakeKubernetes


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m doubles.kubernetes", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0: a free one")
    parser.add_argument("--kubeconfig", type=Path, help="file to write a kubeconfig to")
    parser.add_argument("--no-workloads", action="store_true", help="leave workloads to controllers of your own")
    parser.add_argument("--nodes", type=int, default=0, help="ready nodes to begin with: node-0, node-1, …")
    parser.add_argument("--rbac", action="store_true", help="refuse what no Role allows to requests with a token")
    return parser.parse_args()


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until a signal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, stop.set)
    async with FakeKubernetes(
        port=arguments.port,
        workloads=not arguments.no_workloads,
        enforce_rbac=arguments.rbac,
    ) as api:
        for number in range(arguments.nodes):
            api.add_node(f"node-{number}")
        if arguments.kubeconfig:
            api.kubeconfig(arguments.kubeconfig)
        print(json.dumps({"url": api.url}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(_arguments()))
