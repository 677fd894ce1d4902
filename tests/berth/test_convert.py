"""Every value survives the wire."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from berth import model
from berth.ids import NAME_PATTERN, ModelKey, VersionKey
from berth.resources import HOST, Resources
from berth.states import VersionState
from berth.wire import convert
from berth.wire.v1 import common_pb2, desired_pb2, routes_pb2

names = st.from_regex(NAME_PATTERN, fullmatch=True)
counts = st.integers(0, 2**53)
small = st.integers(0, 2**32 - 1)
instants = st.floats(0, 2e9)
digests = st.binary(min_size=32, max_size=32)
st.register_type_strategy(model.Order, st.builds(model.Order, counts, counts))
st.register_type_strategy(VersionKey, st.builds(VersionKey, names, names, st.integers(1, 2**63 - 1)))
st.register_type_strategy(ModelKey, st.builds(ModelKey, names, names))
artifacts = st.builds(model.Artifact, st.text("0123456789abcdef", min_size=64, max_size=64), counts)
amounts = st.dictionaries(st.sampled_from([HOST, "gpu"]), counts).map(Resources.of)
specs = st.builds(model.VersionSpec, st.from_type(VersionKey), artifacts, amounts)
addresses = st.builds(model.ReplicaAddress, *[names] * 8)
labels = st.dictionaries(names, st.integers(1, 2**63 - 1), max_size=3)
limits = st.builds(model.TenantLimits, names, st.floats(0, 1e9), small, st.floats(0, 1e15), st.floats(0.01, 1000.0))
keys = st.builds(model.ApiKey, sha256=digests, tenant=names)


shares = st.lists(st.builds(model.Share, st.integers(1, 2**63 - 1), st.integers(1, 2**32 - 1)), max_size=3).map(tuple)
servings = st.builds(model.Serving, shares, labels) | st.builds(model.Serving.only, st.integers(0, 2**63 - 1), labels)
answers = st.binary(max_size=20)
version_states = st.sampled_from(VersionState)


def tuples(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=3).map(tuple)


servables = st.builds(
    model.ServableStatus, since=instants, measured_bytes=counts, attempts=small, reason=st.text(max_size=20)
)
seconds = st.floats(0, 1e12)
loads = st.builds(model.ReplicaLoad, counts, seconds, seconds)
servable_loads = st.builds(model.ServableLoad, st.from_type(VersionKey), counts, seconds)
statuses = st.builds(
    model.ReplicaStatus,
    address=addresses,
    servables=tuples(servables),
    memory_limit=counts,
    memory_used=counts,
    in_flight=small,
    load=loads,
    loads=tuples(servable_loads),
)
elsewhere = st.dictionaries(st.integers(1, 2**63 - 1), tuples(names), max_size=2)
routes = st.builds(
    model.ModelRoute,
    serving=servings,
    versions=tuples(
        st.builds(
            model.VersionRoute,
            st.integers(1, 2**63 - 1),
            tuples(names),
            st.text(max_size=20),
            st.booleans(),
            version_states,
        )
    ),
    default_answer=answers,
    elsewhere=elsewhere,
)
desired = st.builds(
    model.DesiredState,
    cell=names,
    generation=counts,
    jobs=tuples(st.builds(model.DesiredJob, name=names, versions=tuples(specs), replicas=st.none() | small)),
    models=tuples(
        st.builds(
            model.DesiredModel,
            serving=servings,
            default_answer=answers,
            elsewhere=elsewhere,
        )
    ),
    keys=tuples(keys),
    limits=tuples(limits),
)
observed = st.builds(
    model.ObservedCell,
    cell=names,
    epoch=counts,
    desired_generation=counts,
    replicas=tuples(
        st.builds(
            model.ObservedReplica,
            status=statuses,
            routed=st.frozensets(st.from_type(VersionKey), max_size=3),
            seen_at=instants,
        )
    ),
    routers=tuples(names),
    pools=tuples(st.builds(model.ObservedPool, names, names, small, small)),
    wanted=tuples(names),
)
deltas = st.builds(
    model.RouteDelta,
    base=counts,
    models=tuples(routes),
    removed_models=tuples(st.from_type(ModelKey)),
    replicas=tuples(addresses),
    removed_replicas=tuples(names),
    keys=tuples(keys),
    removed_keys=tuples(digests),
    limits=tuples(limits),
    removed_limits=tuples(names),
    routers=st.integers(1, 2**32 - 1),
)
aspired = st.builds(model.AspiredSet, versions=tuples(specs))


@pytest.mark.parametrize(
    ("values", "to_wire", "from_wire"),
    [
        (desired, convert.desired_to_wire, convert.desired_from_wire),
        (observed, convert.observed_to_wire, convert.observed_from_wire),
        (deltas, convert.delta_to_wire, convert.delta_from_wire),
        (aspired, convert.aspired_to_wire, convert.aspired_from_wire),
        (statuses, convert.replica_status_to_wire, convert.replica_status_from_wire),
    ],
    ids=["desired", "observed", "delta", "aspired", "status"],
)
def test_a_value_survives_the_wire(
    values: st.SearchStrategy[Any], to_wire: Callable[[Any], Message], from_wire: Callable[[Any], Any]
) -> None:
    @given(values)
    def survives(value: Any) -> None:
        message = to_wire(value)
        assert from_wire(type(message).FromString(message.SerializeToString())) == value

    survives()


def test_what_an_older_peer_leaves_out() -> None:
    (job,) = convert.desired_from_wire(desired_pb2.DesiredState(jobs=[{"name": "j", "runtime": "triton"}])).jobs
    assert job.replicas is None
    old = common_pb2.ReplicaStatus(address={"replica": "r"})
    assert convert.replica_status_from_wire(old).load == model.ReplicaLoad(0, 0.0, 0.0)
    assert convert.limits_from_wire(common_pb2.TenantLimits(tenant="t")) == model.TenantLimits("t", weight=1.0)
    assert convert.delta_from_wire(routes_pb2.RouteDelta(base=3)).routers == 1
    (version,) = convert.model_route_from_wire(routes_pb2.ModelRoute(versions=[{"version": 1}])).versions
    assert version.state is VersionState.PENDING


# What a peer of the release before writes and reads: `target` or `default_version`, and `labels`.

ONE = model.Serving.only(2, {"stable": 1})
SPLIT = model.Serving((model.Share(2, 3), model.Share(3, 1)), {"stable": 1})
NOTHING = model.Serving(labels={"stable": 1})


@pytest.mark.parametrize(("serving", "default"), [(ONE, 2), (SPLIT, 2), (NOTHING, 0)], ids=["one", "split", "none"])
def test_an_older_peer_reads_what_is_served(serving: model.Serving, default: int) -> None:
    key = ModelKey("t", "m")
    state = convert.desired_to_wire(model.DesiredState("c", 1, models=(model.DesiredModel(key, serving),)))
    assert [(entry.target, dict(entry.labels)) for entry in state.models] == [(default, {"stable": 1})]
    route = convert.model_route_to_wire(model.ModelRoute(key, serving, ()))
    assert (route.default_version, dict(route.labels)) == (default, {"stable": 1})


@pytest.mark.parametrize("serving", [ONE, NOTHING, model.Serving()], ids=["one", "labels", "nothing"])
def test_what_an_older_peer_says_is_served(serving: model.Serving) -> None:
    key = ModelKey("t", "m")
    state = convert.desired_to_wire(model.DesiredState("c", 1, models=(model.DesiredModel(key, serving),)))
    route = convert.model_route_to_wire(model.ModelRoute(key, serving, ()))
    assert [*state.models[0].shares, *route.shares] == [], "one that serves alone is said as it always was"
    assert convert.desired_from_wire(state).models == (model.DesiredModel(key, serving),)
    assert convert.model_route_from_wire(route) == model.ModelRoute(key, serving, ())


def test_a_share_of_nothing_is_none() -> None:
    shares = [common_pb2.Share(version=1, weight=2), common_pb2.Share(version=2)]
    assert convert.serving_from_wire(1, shares, {}) == model.Serving((model.Share(1, 2),))


@pytest.mark.parametrize(
    ("serving", "default"),
    [
        (model.Serving(), 0),
        (model.Serving.only(0), 0),
        (model.Serving.only(4), 4),
        (SPLIT, 2),
        (model.Serving((model.Share(2), model.Share(3))), 3),
    ],
)
def test_the_default_is_the_largest_share_and_of_equals_the_newest(serving: model.Serving, default: int) -> None:
    assert serving.default == default


@pytest.mark.parametrize(
    "reserved", [Resources.host(7), Resources(), Resources.of({HOST: 7, "gpu": 5})], ids=["host", "none", "gpu"]
)
def test_an_older_peer_reads_and_says_what_is_reserved_of_the_host(reserved: Resources) -> None:
    spec = model.VersionSpec(VersionKey("t", "m", 1), model.Artifact("a" * 64, 10), reserved)
    wire = convert.version_spec_to_wire(spec)
    assert wire.reserved_bytes == reserved[HOST]
    wire.ClearField("reserved_of")
    assert convert.version_spec_from_wire(wire).reserved == Resources.host(reserved[HOST])
