"""Puts the intake's parts together."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from controller.intake.metrics import IntakeMetrics
from controller.intake.receiving import Receiving
from controller.intake.resuming import Resuming
from controller.intake.steps import Steps, Tools


def compose_intake(tools: Tools, holder: str, registry: CollectorRegistry) -> tuple[Receiving, Resuming]:
    """What clients' uploads go to, and the loop that takes over others'. `holder` names this process, and no other."""
    steps, metrics = Steps(tools), IntakeMetrics(registry)
    return Receiving(tools, steps, holder, metrics), Resuming(tools.transactions, steps, holder, metrics)
