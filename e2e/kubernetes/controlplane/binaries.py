"""Which programs make a control plane, from which modules, and where their binaries are kept.

The version is the one in go.mod. Binaries lie outside the tree, since a clean checkout should not lose what takes
minutes to build: in $XDG_CACHE_HOME/berth/kube/VERSION. Run as a module, it succeeds if they are all there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from berth.settings import environment

HERE = Path(__file__).parent

PROGRAMS: Mapping[str, str] = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
}
"""Import paths of the main packages by the name of the program, in the order in which they start."""


def kubernetes_version() -> str:
    """The version of k8s.io/kubernetes that go.mod requires, as in "1.36.3"."""
    found = re.search(r"^\s*k8s\.io/kubernetes v(\S+)$", (HERE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError("go.mod requires no k8s.io/kubernetes")
    return found[1]


def folder(environ: Mapping[str, str]) -> Path:
    """Where the binaries of this version are, or would be."""
    cache = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "berth" / "kube" / kubernetes_version()


def missing(environ: Mapping[str, str]) -> list[str]:
    """The programs that have not been built."""
    return [name for name in PROGRAMS if not (folder(environ) / name).is_file()]


if __name__ == "__main__":
    sys.exit(bool(missing(environment())))
