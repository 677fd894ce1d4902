"""What fuzzing has found worth keeping, played again."""

from __future__ import annotations

from bench.fuzz.http import corpus, run_script


def test_the_kept_corpus_finds_nothing() -> None:
    scripts = corpus()
    for script in scripts:
        run_script(script)
    assert len(scripts) >= 12, "the seeds at least"
