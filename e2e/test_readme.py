"""The README's commands, run as they stand, with only ports and the path of the programs changed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.stack import Stack
from e2e.waiting import until

README = Path(__file__).parent.parent / "README.md"
PROGRAMS = Path(sys.executable).parent


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def localized(text: str, stack: Stack) -> str:
    return (
        text.replace("127.0.0.1:8080", f"127.0.0.1:{stack.controller_port}")
        .replace("127.0.0.1:8000", f"127.0.0.1:{stack.http_port}")
        .replace("127.0.0.1:8001", f"127.0.0.1:{stack.grpc_port}")
        .replace(".venv/bin/", f"{PROGRAMS}/")
    )


@pytest.fixture(scope="module")
def environ(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        **os.environ,
        "BERTH_CONFIG": str(tmp_path_factory.mktemp("config") / "config.json"),
        "BERTH_CONTROLLER": stack.controller_url,
        "BERTH_ROUTER": stack.router_url,
        "COLUMNS": "200",
    }


def run(command: list[str], stack: Stack, environ: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=stack.folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands(stack: Stack, environ: dict[str, str]) -> None:
    train, upload, look, infer, cli = (localized(block, stack) for block in blocks("sh"))

    def shell(text: str) -> str:
        return run(["bash", "-e", "-c", text], stack, environ)

    shell(train)
    assert '"version":1' in shell(upload).replace(" ", "")
    until(lambda: '"state":"available"' in shell(look).replace(" ", ""), within=20, what="version 1 is available")
    answer = shell(infer)
    assert '"label"' in answer, answer
    said = shell(cli)
    assert "digits" in said
    assert "available" in said.lower()


def test_the_python(stack: Stack, environ: dict[str, str]) -> None:
    sdk, triton = (localized(block, stack) for block in blocks("python"))
    # Ports that differ from the defaults are all that a reader on a quiet machine would not have to say.
    addresses = f', controller="{stack.controller_url}", router="{stack.router_url}"'
    sdk = sdk.replace(".strip())", f".strip(){addresses})")
    assert "label" in run([sys.executable, "-c", sdk], stack, environ)
    assert "[" in run([sys.executable, "-c", triton], stack, environ)
