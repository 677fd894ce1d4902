"""`make kube`: build the control plane's programs with Go. What is there already is not built again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping

from berth.settings import environment
from e2e.kubernetes.controlplane.binaries import HERE, PROGRAMS, folder, kubernetes_version, missing

_VERSION = "k8s.io/component-base/version"


def main() -> int:
    """Build what is missing and say so. Returns the exit status."""
    environ = environment()
    to_build = missing(environ)
    target = folder(environ)
    if not to_build:
        print(f"Kubernetes {kubernetes_version()} is in {target}")
        return 0
    if shutil.which("go") is None:
        print("Go 1.26 or later is needed to build a control plane: https://go.dev/dl", file=sys.stderr)
        return 1
    target.mkdir(parents=True, exist_ok=True)
    print(f"Building Kubernetes {kubernetes_version()} into {target}; ten minutes on two cores, 4 GB of memory")
    for name in to_build:
        began = time.monotonic()
        print(f"  {name} …", end=" ", flush=True)
        done = _build(name, environ)
        if done.returncode:
            print("failed", done.stdout, sep="\n", file=sys.stderr)
            return done.returncode
        size = (target / name).stat().st_size / 2**20
        print(f"{size:.0f} MiB in {time.monotonic() - began:.0f} s")
    return 0


def _build(name: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """One program, statically linked. It appears under its name only when it is whole."""
    version = kubernetes_version()
    major, minor, _ = version.split(".", 2)
    said = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    linked = " ".join(["-s -w", *(f"-X {_VERSION}.{key}={value}" for key, value in said.items())])
    target = folder(environ) / name
    draft = target.with_suffix(".building")
    command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", linked, "-o", str(draft)]
    done = subprocess.run(
        [*command, PROGRAMS[name]],
        cwd=HERE,
        env={**environ, "CGO_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        draft.replace(target)
    return done


if __name__ == "__main__":
    sys.exit(main())
