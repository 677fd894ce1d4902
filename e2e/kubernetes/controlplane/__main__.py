"""`python -m e2e.kubernetes.controlplane FOLDER`: a control plane to look at; Ctrl-C ends it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from berth.settings import environment
from e2e.kubernetes.controlplane.binaries import missing
from e2e.kubernetes.controlplane.plane import running, version_of


def main() -> int:
    if len(sys.argv) != 2 or missing(environment()):
        print("usage: python -m e2e.kubernetes.controlplane FOLDER, after `make kube`", file=sys.stderr)
        return 64
    with running(Path(sys.argv[1]).absolute(), environment()) as plane:
        print(f"Kubernetes {version_of(plane)}\nexport KUBECONFIG={plane.kubeconfig}", flush=True)
        # Only now: what is started inherits the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    sys.exit(main())
