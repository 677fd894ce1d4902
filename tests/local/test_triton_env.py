"""Making Triton's venv: what needs no download. The download itself is what `make triton` does."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from berth.local import triton_env
from berth.local.triton_env import FACTS, LOCK, TritonUnavailable, ensure_triton


def test_a_finished_venv_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "triton"
    home.mkdir()
    facts = json.dumps({"lock": hashlib.sha256(LOCK.read_bytes()).hexdigest()})
    (home / FACTS).write_text(facts)
    said: list[str] = []

    ensure_triton(home, said.append)

    assert said == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["triton"]
    assert (home / FACTS).read_text() == facts


def test_every_requirement_is_pinned_by_hash() -> None:
    pinned = [line for line in LOCK.read_text().splitlines() if line and not line.startswith((" ", "#"))]
    assert {line.split("==")[0] for line in pinned} == {"nvidia-pytriton", "numpy", "onnxruntime"}
    assert all(line.endswith("\\") for line in pinned)
    assert "numpy==1.26" in LOCK.read_text()


def test_failures_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TritonUnavailable, match="failed: boom"):
        triton_env.output_of([sys.executable, "-c", "raise SystemExit('boom')"])
    with pytest.raises(TritonUnavailable, match="the-lock is missing"):
        ensure_triton(tmp_path / "triton", lock=tmp_path / "the-lock")
    assert not (tmp_path / "triton").exists()


def test_usage() -> None:
    done = subprocess.run([sys.executable, "-m", "berth.local.triton_env"], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "HOME" in done.stderr
