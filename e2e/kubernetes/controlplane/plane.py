"""A Kubernetes control plane on loopback: etcd, API server, controller manager and scheduler, each a child process.

RBAC is on, and so are Kubernetes' default admission plugins, Pod Security among them. There are no nodes: whoever uses
the plane brings them. Time limits that a person can wait for and a test cannot (a lost node's grace) are shorter than
Kubernetes' own. Data lies in the given folder and is not kept.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from doubles.certificates import Authority
from e2e.kubernetes.controlplane.binaries import folder
from e2e.kubernetes.tether import tethered
from e2e.waiting import until

START_LIMIT_S = 90.0
_STOP_LIMIT_S = 10.0
# User names that Kubernetes' built-in roles are bound to, and the group that may do anything.
_USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
}
_FRONT_PROXY = "front-proxy-client"
# The service account controllers start last of what a test needs: without this object no pod is admitted.
_LAST_TO_APPEAR = "/api/v1/namespaces/default/serviceaccounts/default"


@dataclass(slots=True)
class ControlPlane:
    """One control plane with its data, certificates and logs in `home`. `environ` says where the binaries are."""

    home: Path
    environ: Mapping[str, str] = field(repr=False)
    port: int = 0
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict, repr=False)
    _commands: dict[str, list[str]] = field(default_factory=dict, repr=False)

    @property
    def kubeconfig(self) -> Path:
        """For an admin who may do anything."""
        return self.home / "admin.kubeconfig"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> ControlPlane:
        """Start everything and return when pods could be scheduled. Raises AssertionError with what a program said."""
        self.home.mkdir(parents=True, exist_ok=True)
        etcd, peers, self.port, managing, scheduling = _free_ports(5)
        self._write_credentials()
        self._commands = {
            "etcd": _etcd(self.home, etcd, peers),
            "kube-apiserver": _apiserver(self.home, self.port, etcd),
            "kube-controller-manager": _controller_manager(self.home, managing),
            "kube-scheduler": _scheduler(self.home, scheduling),
        }
        self.launch("etcd")
        self.launch("kube-apiserver")
        self._wait("kube-apiserver", f"{self.url}/readyz")
        self.launch("kube-controller-manager")
        self.launch("kube-scheduler")
        self._wait("kube-controller-manager", f"https://127.0.0.1:{managing}/healthz")
        self._wait("kube-scheduler", f"https://127.0.0.1:{scheduling}/healthz")
        self._wait("kube-controller-manager", self.url + _LAST_TO_APPEAR)
        return self

    def launch(self, program: str) -> None:
        """Start one program, at first or after `halt`."""
        command = [str(folder(self.environ) / program), *self._commands[program]]
        with self._log(program).open("ab") as output:
            self._running[program] = subprocess.Popen(
                tethered(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
                start_new_session=True,
            )

    def halt(self, program: str) -> None:
        """kill -9 of one program."""
        process = self._running.pop(program)
        process.kill()
        process.wait(_STOP_LIMIT_S)

    def wait_ready(self) -> None:
        """Return when the API server answers."""
        self._wait("kube-apiserver", f"{self.url}/readyz")

    def stop(self) -> None:
        """End everything, the last started first."""
        for program in reversed(list(self._running)):
            process = self._running.pop(program)
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_LIMIT_S)
            process.kill()
            process.wait()

    def said(self, program: str) -> str:
        """The end of what a program has logged."""
        path = self._log(program)
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def client(self) -> httpx.Client:
        """As the admin, on certificates of this plane."""
        return httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {self._tokens['admin']}"},
            verify=ssl.create_default_context(cafile=str(self.home / "ca.pem")),
            trust_env=False,
        )

    def _log(self, program: str) -> Path:
        return self.home / f"{program}.log"

    def _write_credentials(self) -> None:
        served = Authority(self.home, name="kubernetes").issue("apiserver")
        # Who asks aggregated API servers on behalf of others.
        Authority(self.home / "front-proxy", name="front proxy").issue(_FRONT_PROXY)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        # Signs the tokens of service accounts; the public half is read from the same file.
        (self.home / "accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        self._tokens = {name: secrets.token_hex(24) for name in _USERS}
        lines = [f'{self._tokens[name]},{user},{user},"{group}"' for name, (user, group) in _USERS.items()]
        (self.home / "tokens.csv").write_text("\n".join(lines) + "\n")
        for name, token in self._tokens.items():
            document = kubeconfig(self.url, token, served.ca.read_text())
            (self.home / f"{name}.kubeconfig").write_text(yaml.safe_dump(document))

    def _wait(self, program: str, url: str) -> None:
        token = {"authorization": f"Bearer {self._tokens['admin']}"}

        # The two beside the API server make certificates of their own; what they answer here is only "ok".
        with httpx.Client(verify=False, headers=token, trust_env=False) as client:

            def ready() -> bool:
                for name, process in self._running.items():
                    if process.poll() is not None:
                        raise AssertionError(f"{name} ended with {process.returncode}:\n{self.said(name)}")
                try:
                    return client.get(url).status_code == 200
                except httpx.TransportError:
                    return False

            until(ready, within=START_LIMIT_S, what=f"{program} answers at {url}", every=0.1)


@contextlib.contextmanager
def running(home: Path, environ: Mapping[str, str]) -> Iterator[ControlPlane]:
    """A control plane while the context is open."""
    plane = ControlPlane(home, environ)
    try:
        yield plane.start()
    finally:
        plane.stop()


def kubeconfig(server: str, token: str, authority: str) -> dict[str, object]:
    """A kubeconfig for one user of one server. `authority` is its certificate authority in PEM."""
    import base64

    trusted = {"certificate-authority-data": base64.b64encode(authority.encode()).decode()} if authority else {}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "plane", "cluster": {"server": server, **trusted}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": "user"}}],
        "current-context": "plane",
    }


def _etcd(home: Path, port: int, peers: int) -> list[str]:
    url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    return [
        f"--data-dir={home / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=default={peer_url}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver(home: Path, port: int, etcd: int) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        # Endpoints refuse loopback addresses; pods are told this address by their environment.
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.0.0.0/16",
        f"--cert-dir={home / 'apiserver'}",
        f"--tls-cert-file={home / 'apiserver.pem'}",
        f"--tls-private-key-file={home / 'apiserver.key'}",
        f"--token-auth-file={home / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={home / 'accounts.key'}",
        f"--service-account-signing-key-file={home / 'accounts.key'}",
        f"--requestheader-client-ca-file={home / 'front-proxy' / 'ca.pem'}",
        f"--requestheader-allowed-names={_FRONT_PROXY}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={home / 'front-proxy' / _FRONT_PROXY}.pem",
        f"--proxy-client-key-file={home / 'front-proxy' / _FRONT_PROXY}.key",
        # Long enough for heartbeats to come first when the API server itself was away.
        "--default-not-ready-toleration-seconds=4",
        "--default-unreachable-toleration-seconds=4",
    ]


def _controller_manager(home: Path, port: int) -> list[str]:
    return [
        f"--kubeconfig={home / 'controller-manager.kubeconfig'}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={home / 'controller-manager'}",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={home / 'accounts.key'}",
        f"--root-ca-file={home / 'ca.pem'}",
        # A lost node: noticed after 5 s instead of 50, its pods are given up at once.
        "--node-monitor-period=500ms",
        "--node-monitor-grace-period=5s",
        "--node-eviction-rate=10",
        "--secondary-node-eviction-rate=10",
        "--horizontal-pod-autoscaler-sync-period=1s",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _scheduler(home: Path, port: int) -> list[str]:
    return [
        f"--kubeconfig={home / 'scheduler.kubeconfig'}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={home / 'scheduler'}",
        "--leader-elect=false",
    ]


def _free_ports(count: int) -> Sequence[int]:
    """Ports that nobody listens on; held together while they are chosen, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def version_of(plane: ControlPlane) -> str:
    """What the API server says that it is."""
    with plane.client() as client:
        return str(json.loads(client.get("/version").text)["gitVersion"])
