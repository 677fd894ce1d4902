"""`berth doctor`: a table of the checks, with a remedy for each that is not well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from berth.cli.options import AsJson
from berth.cli.output import console, print_json, print_table

if TYPE_CHECKING:
    from berth.doctor.findings import Finding


def doctor(
    machine: Annotated[bool, typer.Option("--machine", help="Can `berth up` run on this machine?")] = False,
    service: Annotated[bool, typer.Option("--service", help="Is the service that you are logged in to well?")] = False,
    namespace: Annotated[
        str | None, typer.Option("--kubernetes", metavar="NAMESPACE", help="Is the Berth in this namespace well?")
    ] = None,
    kubeconfig: Annotated[Path | None, typer.Option(help="Instead of $KUBECONFIG or ~/.kube/config.")] = None,
    directory: Annotated[Path, typer.Option("--dir", help="Where `berth up` would keep its data.")] = Path(".berth"),
    as_json: AsJson = False,
) -> None:
    """Check this machine, a service or a cluster, and say what is missing.

    Without an option: the machine, and the service if you are logged in. Exit status 1 if something failed.
    """
    from berth.doctor.findings import Level, worst

    findings = list(_examine(machine, service, namespace, kubeconfig, directory))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        print_table(
            ("is", "what", "seen", "to do"),
            [(found.level, found.check, found.said, found.remedy) for found in findings],
            empty="There was nothing to look at.",
        )
        counts = {level: sum(found.level is level for found in findings) for level in Level}
        console().print(", ".join(f"{count} {level}" for level, count in counts.items()))
    if worst(findings) is Level.FAIL:
        raise typer.Exit(1)


def _examine(
    machine: bool, service: bool, namespace: str | None, kubeconfig: Path | None, directory: Path
) -> list[Finding]:
    from berth.cli.session import load
    from berth.doctor import cluster, findings
    from berth.doctor import machine as here
    from berth.doctor import service as there
    from berth.settings import environment

    session = load(environment())
    nothing_named = not (machine or service or namespace)
    found: list[Finding] = []
    if machine or nothing_named:
        found += here.examine(directory)
    if service or (nothing_named and session.key):
        found += there.examine(session.controller, session.router, session.key, session.tenant)
    if namespace:
        try:
            found += cluster.judge(cluster.read(namespace, kubeconfig))
        except ImportError:
            found.append(
                findings.fail("cluster", "the Kubernetes client is missing", "pip install 'berth[kubernetes]'")
            )
        except (OSError, ValueError) as error:
            found.append(findings.fail("cluster", str(error), "check the kubeconfig: kubectl version"))
    return found
