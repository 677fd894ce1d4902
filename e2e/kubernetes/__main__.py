"""`python -m e2e.kubernetes FOLDER`: a control plane with Berth installed on it, to look at; Ctrl-C ends it.

The pods are processes of this machine, each on a loopback address of its own. FOLDER is new, and keeps their logs.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from berth.settings import environment
from e2e.kubernetes.api import open_api
from e2e.kubernetes.cluster import Cluster
from e2e.kubernetes.controlplane.binaries import missing
from e2e.kubernetes.controlplane.plane import ControlPlane, running, version_of
from e2e.kubernetes.installation import installed

NAMESPACE = "berth"


def main() -> int:
    if len(sys.argv) != 2 or missing(environment()):
        print("usage: python -m e2e.kubernetes FOLDER, after `make kube`", file=sys.stderr)
        return 64
    folder = Path(sys.argv[1]).absolute()
    with running(folder / "plane", environment()) as plane:
        asyncio.run(_serve(plane, folder))
    return 0


async def _serve(plane: ControlPlane, folder: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_api(plane.kubeconfig) as api:
        cluster = Cluster("real", plane.kubeconfig, api, plane=plane)
        async with installed(cluster, folder, NAMESPACE) as berth:
            key = folder / "admin.key"
            key.write_text(berth.admin_key)
            key.chmod(0o600)
            print(f"Kubernetes {version_of(plane)}, Berth in namespace {NAMESPACE}")
            print(f"export KUBECONFIG={plane.kubeconfig}")
            controller, router = (f"http://{berth.service(name)}" for name in ("controller", "router"))
            print(f"berth login --controller {controller}:8080 --router {router}:8000 --key-file {key}", flush=True)
            await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
