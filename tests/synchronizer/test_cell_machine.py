"""Two synchronizers, workers and routers with messages under way between them, in any order that hypothesis finds.

The invariants of ARCHITECTURE.md are checked after every single delivery:
3 (routed means loaded, withdrawn before unload), 4 (an older set is refused, an aspired version stays) and 6 (fencing).
At the end everything is delivered, and the cell must have become what was desired.

One combination is left out, because nothing can be promised for it: a deposed leader that learns of it neither from a
controller nor from a worker or router for seconds, while its successor meets versions that it knows only by name. So
either deposed leaders are told within seconds, or synchronizers see every desired state (`forgetful` or not).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from berth.ids import VersionKey
from berth.model import (
    NEVER,
    Artifact,
    AspiredSet,
    DesiredJob,
    DesiredModel,
    DesiredState,
    Order,
    ReplicaAddress,
    ReplicaStatus,
    RouteDelta,
    RouteTable,
    ServableStatus,
    Serving,
    VersionSpec,
)
from berth.resources import Resources
from berth.route_delta import GapError, StaleDelta, apply_delta, snapshot
from berth.states import Runtime, ServableState
from synchronizer.core.cell import Cell, Timings
from synchronizer.core.events import (
    CellEvent,
    DesiredArrived,
    Discovered,
    Led,
    Lost,
    Reported,
    Reserved,
    RouterSeen,
    SteppedDown,
)
from synchronizer.replay.playing import play
from synchronizer.replay.recording import HistoryRecorder

KEYS = [VersionKey("t", model, version) for model in ("m", "n") for version in (1, 2)]
WORKERS = {"w1": "j1", "w2": "j1", "w3": "j2"}
ROUTERS = ["r1", "r2"]
NODES = ["a", "b"]
LONG = 1e6


def spec(key: VersionKey) -> VersionSpec:
    return VersionSpec(key, Artifact("0" * 64, 10), Resources.host(100))


@dataclass
class Worker:
    name: str
    start: int = 1
    accepted: Order = NEVER
    draining: bool = False
    states: dict[VersionKey, ServableState] = field(default_factory=dict)
    aspired: frozenset[VersionKey] = frozenset()

    def status(self) -> ReplicaStatus:
        address = ReplicaAddress(self.name, WORKERS[self.name], "c", str(self.start), "c:1", "g:1", "h:1")
        servables = tuple(ServableStatus(key, state) for key, state in sorted(self.states.items()))
        return ReplicaStatus(address, self.accepted, servables, draining=self.draining)


@dataclass
class Stream:
    """Between one synchronizer and one worker, in both directions."""

    down: deque[tuple[float, AspiredSet]] = field(default_factory=deque)
    up: deque[Reported] = field(default_factory=deque)


@dataclass
class Feed:
    """Between one synchronizer and one router."""

    session: int
    down: deque[RouteDelta] = field(default_factory=deque)
    up: deque[Order] = field(default_factory=deque)


class Node:
    def __init__(self) -> None:
        self.cell = Cell("c", Timings(settle=2.0, router_grace=5.0, withdraw_timeout=LONG))
        self.lines: list[str] = []
        self.step = HistoryRecorder(self.cell, self.lines.append).step
        self.streams: dict[str, Stream] = {}
        self.feeds: dict[str, Feed] = {}


class CellMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.epoch = 0
        self.holder = "a"
        self.sessions = 0
        self.history = [DesiredState("c", 1)]
        self.forgetful = False
        self.workers = {name: Worker(name) for name in WORKERS}
        self.leaving: set[str] = set()
        self.tables = {name: RouteTable() for name in ROUTERS}
        self.nodes = {name: Node() for name in NODES}

    @property
    def desired(self) -> DesiredState:
        return self.history[-1]

    @initialize(assigned=st.lists(st.sampled_from(KEYS), min_size=1), forgetful=st.booleans())
    def begin(self, assigned: list[VersionKey], forgetful: bool) -> None:
        self.forgetful = forgetful
        for name in NODES:
            self.boot(name)
        self.change_desired(assigned, [])
        for name in NODES:
            self.learn_desired(name)
        self.take_over("a")

    # --- the world ----------------------------------------------------------------------------------------------

    def boot(self, name: str) -> None:
        self.play_again(self.nodes[name])
        node = self.nodes[name] = Node()
        node.step([self.discovered()], self.now)
        high = max([0, *(table.order.generation for table in self.tables.values())])
        high = max([high, *(worker.accepted.generation for worker in self.workers.values())])
        node.step([Reserved(high + 100, high + 100_000)], self.now)
        for router in ROUTERS:
            self.connect_router(name, router)

    def discovered(self) -> Discovered:
        registered = {worker.name: worker.status().address for worker in self.workers.values()}
        return Discovered(registered, frozenset(self.leaving))

    def connect_router(self, name: str, router: str) -> None:
        self.sessions += 1
        feed = self.nodes[name].feeds[router] = Feed(self.sessions)
        feed.up.append(self.tables[router].order)
        self.hear_router(name, router)
        if self.nodes[name].cell.table().order != NEVER:
            feed.down.append(snapshot(self.nodes[name].cell.table()))

    def tell(self, name: str, *events: CellEvent) -> None:
        node = self.nodes[name]
        outcome = node.step(events, self.now)
        node.cell.validate()
        if outcome.fenced:
            self.step_down(name)
            return
        if outcome.publish is not None:
            for feed in node.feeds.values():
                feed.down.append(outcome.publish)
        for replica, aspired in outcome.pushes:
            node.streams[replica].down.append((self.now, aspired))

    def step_down(self, name: str) -> None:
        node = self.nodes[name]
        node.streams.clear()
        node.step([SteppedDown()], self.now)
        for router in ROUTERS:
            self.connect_router(name, router)

    def report(self, worker: str, *, refused_to: Stream | None = None) -> None:
        for node in self.nodes.values():
            if worker in node.streams:
                stream = node.streams[worker]
                stream.up.append(Reported(self.workers[worker].status(), refused=stream is refused_to))

    def routed(self, worker: Worker) -> set[VersionKey]:
        return {
            VersionKey(*key, version.version)
            for table in self.tables.values()
            if worker.name in table.replicas and table.replicas[worker.name].incarnation == str(worker.start)
            for key, route in table.models.items()
            for version in route.versions
            if worker.name in version.replicas
        }

    # --- what may happen ----------------------------------------------------------------------------------------

    @rule(first=st.lists(st.sampled_from(KEYS)), second=st.lists(st.sampled_from(KEYS)))
    def change_desired(self, first: list[VersionKey], second: list[VersionKey]) -> None:
        jobs = tuple(
            DesiredJob(name, Runtime.ONNXRUNTIME, tuple(map(spec, sorted(set(keys)))))
            for name, keys in (("j1", first), ("j2", second))
            if keys
        )
        models = {key.model_key for key in [*first, *second]}
        named = tuple(DesiredModel(key, Serving.only(2)) for key in sorted(models))
        self.history.append(DesiredState("c", self.desired.generation + 1, jobs, named))

    @rule(name=st.sampled_from(NODES))
    def learn_desired(self, name: str) -> None:
        for state in self.history[-1:] if self.forgetful else self.history:
            self.tell(name, DesiredArrived(state))

    @rule(name=st.sampled_from(NODES))
    def take_over(self, name: str) -> None:
        """The lease changes hands; the other one is not told."""
        if self.holder == name and self.nodes[name].cell.leading:
            return
        self.holder = name
        self.epoch += 1
        was_leading = self.nodes[name].cell.leading
        self.tell(name, Led(self.epoch))
        for worker in WORKERS:
            if was_leading:
                self.report(worker)  # its streams went on, and each worker reports at least every second
            else:
                self.connect_worker(name, worker)

    @rule()
    def renew_in_another_epoch(self) -> None:
        if self.nodes[self.holder].cell.leading:
            self.epoch += 1
            self.tell(self.holder, Led(self.epoch))

    @rule(name=st.sampled_from(NODES))
    def crash_synchronizer(self, name: str) -> None:
        self.boot(name)
        self.learn_desired(name)
        if self.holder == name:
            self.take_over(name)

    @rule(name=st.sampled_from(NODES), worker=st.sampled_from(sorted(WORKERS)))
    def connect_worker(self, name: str, worker: str) -> None:
        node = self.nodes[name]
        if not node.cell.leading:
            return
        if worker in node.streams:
            del node.streams[worker]
            self.tell(name, Lost(worker))
        stream = node.streams[worker] = Stream()
        stream.up.append(Reported(self.workers[worker].status(), opened=True))

    @rule(worker=st.sampled_from(sorted(WORKERS)))
    def restart_worker(self, worker: str) -> None:
        self.workers[worker] = Worker(worker, self.workers[worker].start + 1)
        self.leaving.discard(worker)
        for name in NODES:
            self.connect_worker(name, worker)

    @rule(worker=st.sampled_from(sorted(WORKERS)))
    def drain_worker(self, worker: str) -> None:
        self.workers[worker].draining = True
        self.report(worker)

    @rule(worker=st.sampled_from(sorted(WORKERS)))
    def leave(self, worker: str) -> None:
        """It will end; the worker itself need not know yet, and synchronizers learn of it one after the other."""
        self.leaving.add(worker)

    @rule(name=st.sampled_from(NODES))
    def discover(self, name: str) -> None:
        self.tell(name, self.discovered())

    @rule(name=st.sampled_from(NODES), worker=st.sampled_from(sorted(WORKERS)))
    def aspire(self, name: str, worker: str) -> None:
        """A worker takes the next set: at worst it unloads what is left out in the same instant."""
        stream = self.nodes[name].streams.get(worker)
        if stream is None or not stream.down:
            return
        _, aspired = stream.down.popleft()
        subject = self.workers[worker]
        if aspired.order < subject.accepted:
            self.report(worker, refused_to=stream)
            return
        keys = frozenset(spec.key for spec in aspired.versions)
        unloaded = subject.states.keys() - keys
        assert not unloaded & self.routed(subject), f"unloads {unloaded & self.routed(subject)} while it is routed"
        subject.accepted, subject.aspired = aspired.order, keys
        subject.states = {key: subject.states.get(key, ServableState.LOADING) for key in keys}
        self.report(worker)

    @rule(
        worker=st.sampled_from(sorted(WORKERS)), state=st.sampled_from([ServableState.AVAILABLE, ServableState.ERROR])
    )
    def finish_load(self, worker: str, state: ServableState) -> None:
        for key, was in sorted(self.workers[worker].states.items()):
            if was is ServableState.LOADING:
                self.workers[worker].states[key] = state
                self.report(worker)
                return

    @rule(name=st.sampled_from(NODES), worker=st.sampled_from(sorted(WORKERS)))
    def hear_worker(self, name: str, worker: str) -> None:
        stream = self.nodes[name].streams.get(worker)
        if stream is not None and stream.up:
            self.tell(name, stream.up.popleft())

    @rule(name=st.sampled_from(NODES), router=st.sampled_from(ROUTERS))
    def route(self, name: str, router: str) -> None:
        feed = self.nodes[name].feeds[router]
        if not feed.down:
            return
        try:
            self.tables[router] = apply_delta(self.tables[router], feed.down.popleft())
        except StaleDelta:
            pass
        except GapError:
            self.connect_router(name, router)
            return
        for node in NODES:
            self.nodes[node].feeds[router].up.append(self.tables[router].order)

    @rule(name=st.sampled_from(NODES), router=st.sampled_from(ROUTERS))
    def hear_router(self, name: str, router: str) -> None:
        feed = self.nodes[name].feeds[router]
        if feed.up:
            self.tell(name, RouterSeen(feed.session, router, feed.up.popleft()))

    @rule(name=st.sampled_from(NODES), router=st.sampled_from(ROUTERS))
    def reconnect_router(self, name: str, router: str) -> None:
        self.connect_router(name, router)

    @rule(seconds=st.sampled_from([0.1, 3.0, 6.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; what has been under way for longer than a stream may be silent has arrived."""
        self.now += seconds
        for name in NODES if self.forgetful and seconds > 1.0 else ():
            if name != self.holder and self.nodes[name].cell.leading:
                self.step_down(name)
        for name in NODES:
            for worker in WORKERS:
                while (stream := self.nodes[name].streams.get(worker)) and stream.down:
                    if stream.down[0][0] > self.now - 1.5:
                        break
                    self.aspire(name, worker)
        for name in NODES:
            self.tell(name)

    @rule()
    def deliver_everything(self) -> None:
        for _ in range(12):
            for name in NODES:
                for worker in WORKERS:
                    while (stream := self.nodes[name].streams.get(worker)) and (stream.up or stream.down):
                        self.aspire(name, worker)
                        self.hear_worker(name, worker)
                for router in ROUTERS:
                    while (feed := self.nodes[name].feeds[router]).up or feed.down:
                        self.route(name, router)
                        self.hear_router(name, router)
            for worker in WORKERS:
                self.finish_load(worker, ServableState.AVAILABLE)
            self.wait(0.1)

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def routed_means_loaded(self) -> None:
        for worker in self.workers.values():
            available = {key for key, state in worker.states.items() if state is ServableState.AVAILABLE}
            assert self.routed(worker) <= available

    @invariant()
    def what_is_reported_routed_is_in_every_table(self) -> None:
        for node in self.nodes.values():
            for replica in node.cell.observed(0.0).replicas if node.cell.leading else ():
                assert not replica.routed or node.cell.settled

    def play_again(self, node: Node) -> None:
        """What a cell was told and answered is data: played again, it is the same."""
        odd = [step for step in play(node.lines) if not step.is_the_same]
        assert [(step.number, step.differences()) for step in odd] == []

    def teardown(self) -> None:
        """All is delivered: what is desired is held, and routed if it could be loaded. Histories can be played."""
        try:
            self.settle_down()
        except AssertionError:
            for name, node in self.nodes.items():
                note(f"the history of {name}, for `python -m synchronizer.replay`:\n" + "\n".join(node.lines))
            raise
        for node in self.nodes.values():
            self.play_again(node)

    def settle_down(self) -> None:
        if not self.epoch:
            return
        self.take_over("b" if self.holder == "a" else "a")
        self.learn_desired(self.holder)
        self.discover(self.holder)
        self.deliver_everything()
        self.wait(6.0)
        self.deliver_everything()
        self.wait(6.0)
        self.deliver_everything()
        assert [name for name in NODES if self.nodes[name].cell.leading] == [self.holder]
        jobs = {job.name: {spec.key for spec in job.versions} for job in self.desired.jobs}
        for worker in self.workers.values():
            leaves = worker.draining or worker.name in self.leaving
            wanted = set() if leaves else jobs.get(WORKERS[worker.name], set())
            assert worker.states.keys() == wanted, f"{worker} does not hold what is desired"
            available = {key for key, state in worker.states.items() if state is ServableState.AVAILABLE}
            for table in self.tables.values():
                assert self.routed(worker) == available
                assert table.order == self.nodes[self.holder].cell.table().order
                assert table.models.keys() == {entry.key for entry in self.desired.models}
        observed = self.nodes[self.holder].cell.observed(0.0)
        for replica in observed.replicas:
            assert replica.routed == self.routed(self.workers[replica.status.address.replica])
        assert observed.routers == tuple(ROUTERS)


TestCellMachine = CellMachine.TestCase
TestCellMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
