"""What routers want: remembered for a few seconds, handed on while leading."""

from prometheus_client import CollectorRegistry

from berth.ids import VersionKey
from synchronizer.metrics import Metrics
from synchronizer.routers.wishes import WantedVersions

V1, V2, V3 = (VersionKey("t", "m", number) for number in (1, 2, 3))


class Situation:
    def __init__(self) -> None:
        self.now = 100.0
        self.leading = True
        self.heard: list[tuple[VersionKey, ...]] = []
        self.registry = CollectorRegistry()
        self.demand = WantedVersions(lambda: self.leading, lambda: self.now, Metrics(self.registry), self.heard.append)

    @property
    def counted(self) -> float | None:
        return self.registry.get_sample_value("berth_synchronizer_wanted_versions_total")


def test_a_wish_lasts_while_it_is_repeated() -> None:
    world = Situation()
    world.demand.hear((V1, V2))
    world.now += 2.0
    world.demand.hear((V1,))
    assert world.demand.wanted() == (V2, V1)
    world.now += 1.0
    assert world.demand.wanted() == (V1,)
    world.now += 2.0
    assert world.demand.wanted() == ()
    assert (world.heard, world.counted) == ([(V1, V2), (V1,)], 3.0)


def test_who_does_not_lead_does_not_act() -> None:
    world = Situation()
    world.leading = False
    world.demand.hear((V1,))
    assert (world.demand.wanted(), world.heard, world.counted) == ((), [], 0.0)


def test_memory_is_bounded() -> None:
    world = Situation()
    world.demand.hear(tuple(VersionKey("t", "m", number) for number in range(1, 20_001)))
    assert len(world.demand.wanted()) == 10_000
    assert world.demand.wanted()[-1].version == 20_000
