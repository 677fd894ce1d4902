"""Between `berth.model` and the messages of `berth.wire.v1`: one pair of functions per value, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from berth import model
from berth.ids import ModelKey, VersionKey
from berth.resources import HOST, Resources
from berth.states import ArtifactFormat, Role, Runtime, ServableState, VersionState
from berth.wire.v1 import common_pb2, desired_pb2, routes_pb2, worker_pb2


def order_to_wire(order: model.Order) -> common_pb2.Order:
    return common_pb2.Order(epoch=order.epoch, generation=order.generation)


def order_from_wire(message: common_pb2.Order) -> model.Order:
    return model.Order(message.epoch, message.generation)


def version_ref_to_wire(key: VersionKey) -> common_pb2.VersionRef:
    return common_pb2.VersionRef(tenant=key.tenant, model=key.model, version=key.version)


def version_ref_from_wire(message: common_pb2.VersionRef) -> VersionKey:
    return VersionKey(message.tenant, message.model, message.version)


def elsewhere_to_wire(elsewhere: Mapping[int, tuple[str, ...]]) -> list[common_pb2.Elsewhere]:
    return [common_pb2.Elsewhere(version=version, cells=cells) for version, cells in elsewhere.items()]


def elsewhere_from_wire(messages: Iterable[common_pb2.Elsewhere]) -> dict[int, tuple[str, ...]]:
    return {message.version: tuple(message.cells) for message in messages}


def shares_to_wire(serving: model.Serving) -> list[common_pb2.Share]:
    """Nothing where one version serves alone, as most do: a message has a field for that one, and a snapshot has a
    hundred thousand of them."""
    shares = serving.versions
    if not shares or (len(shares) == 1 and shares[0].weight == 1):
        return []
    return [common_pb2.Share(version=share.version, weight=share.weight) for share in shares]


def serving_from_wire(alone: int, shares: Sequence[common_pb2.Share], labels: Mapping[str, int]) -> model.Serving:
    """`alone` serves where there are no `shares`; 0: nothing does."""
    if not shares:
        return model.Serving.only(alone, dict(labels))
    return model.Serving(
        tuple(model.Share(share.version, share.weight) for share in shares if share.weight), dict(labels)
    )


def devices_to_wire(resources: Resources) -> list[common_pb2.DeviceBytes]:
    """All but the host, of which a message has a field of its own."""
    return [common_pb2.DeviceBytes(device=device, bytes=size) for device, size in resources.parts if device != HOST]


def resources_from_wire(host: int, devices: Sequence[common_pb2.DeviceBytes]) -> Resources:
    if not devices:
        return Resources.host(host)
    return Resources.of({**{part.device: part.bytes for part in devices}, HOST: host})


def version_spec_to_wire(spec: model.VersionSpec) -> common_pb2.VersionSpec:
    artifact = common_pb2.Artifact(
        sha256=spec.artifact.sha256, size_bytes=spec.artifact.size_bytes, format=spec.artifact.format
    )
    return common_pb2.VersionSpec(
        ref=version_ref_to_wire(spec.key),
        artifact=artifact,
        reserved_bytes=spec.reserved[HOST],
        reserved_of=devices_to_wire(spec.reserved),
    )


def version_spec_from_wire(message: common_pb2.VersionSpec) -> model.VersionSpec:
    artifact = model.Artifact(
        message.artifact.sha256, message.artifact.size_bytes, ArtifactFormat(message.artifact.format)
    )
    reserved = resources_from_wire(message.reserved_bytes, message.reserved_of)
    return model.VersionSpec(version_ref_from_wire(message.ref), artifact, reserved)


def api_key_to_wire(key: model.ApiKey) -> common_pb2.ApiKey:
    return common_pb2.ApiKey(sha256=key.sha256, tenant=key.tenant, role=key.role)


def api_key_from_wire(message: common_pb2.ApiKey) -> model.ApiKey:
    return model.ApiKey(message.sha256, message.tenant, Role(message.role))


def limits_to_wire(limits: model.TenantLimits) -> common_pb2.TenantLimits:
    return common_pb2.TenantLimits(
        tenant=limits.tenant,
        requests_per_second=limits.requests_per_second,
        max_concurrent=limits.max_concurrent,
        bytes_per_second=limits.bytes_per_second,
        weight=limits.weight,
    )


def limits_from_wire(message: common_pb2.TenantLimits) -> model.TenantLimits:
    return model.TenantLimits(
        message.tenant,
        message.requests_per_second,
        message.max_concurrent,
        message.bytes_per_second,
        message.weight or 1.0,
    )


def address_to_wire(address: model.ReplicaAddress) -> common_pb2.ReplicaAddress:
    return common_pb2.ReplicaAddress(
        replica=address.replica,
        job=address.job,
        cell=address.cell,
        incarnation=address.incarnation,
        control=address.control,
        grpc=address.grpc,
        http=address.http,
        zone=address.zone,
    )


def address_from_wire(message: common_pb2.ReplicaAddress) -> model.ReplicaAddress:
    return model.ReplicaAddress(
        replica=message.replica,
        job=message.job,
        cell=message.cell,
        incarnation=message.incarnation,
        control=message.control,
        grpc=message.grpc,
        http=message.http,
        zone=message.zone,
    )


def replica_load_to_wire(load: model.ReplicaLoad) -> common_pb2.ReplicaLoad:
    return common_pb2.ReplicaLoad(completed=load.completed, busy_s=load.busy_s, queued_s=load.queued_s)


def replica_load_from_wire(message: common_pb2.ReplicaLoad) -> model.ReplicaLoad:
    return model.ReplicaLoad(message.completed, message.busy_s, message.queued_s)


def servable_load_to_wire(load: model.ServableLoad) -> common_pb2.ServableLoad:
    return common_pb2.ServableLoad(ref=version_ref_to_wire(load.key), completed=load.completed, busy_s=load.busy_s)


def servable_load_from_wire(message: common_pb2.ServableLoad) -> model.ServableLoad:
    return model.ServableLoad(version_ref_from_wire(message.ref), message.completed, message.busy_s)


def replica_status_to_wire(status: model.ReplicaStatus) -> common_pb2.ReplicaStatus:
    return common_pb2.ReplicaStatus(
        address=address_to_wire(status.address),
        accepted=order_to_wire(status.accepted),
        servables=[
            common_pb2.ServableStatus(
                ref=version_ref_to_wire(servable.key),
                state=servable.state,
                reason=servable.reason,
                since=servable.since,
                measured_bytes=servable.measured_bytes,
                attempts=servable.attempts,
            )
            for servable in status.servables
        ],
        memory_limit=status.memory_limit,
        memory_used=status.memory_used,
        in_flight=status.in_flight,
        draining=status.draining,
        load=replica_load_to_wire(status.load),
        loads=[servable_load_to_wire(load) for load in status.loads],
    )


def replica_status_from_wire(message: common_pb2.ReplicaStatus) -> model.ReplicaStatus:
    return model.ReplicaStatus(
        address=address_from_wire(message.address),
        accepted=order_from_wire(message.accepted),
        servables=tuple(
            model.ServableStatus(
                version_ref_from_wire(servable.ref),
                ServableState(servable.state),
                servable.reason,
                servable.since,
                servable.measured_bytes,
                servable.attempts,
            )
            for servable in message.servables
        ),
        memory_limit=message.memory_limit,
        memory_used=message.memory_used,
        in_flight=message.in_flight,
        draining=message.draining,
        load=replica_load_from_wire(message.load),
        loads=tuple(servable_load_from_wire(load) for load in message.loads),
    )


def aspired_to_wire(aspired: model.AspiredSet) -> worker_pb2.AspiredSet:
    return worker_pb2.AspiredSet(
        order=order_to_wire(aspired.order), versions=[version_spec_to_wire(spec) for spec in aspired.versions]
    )


def aspired_from_wire(message: worker_pb2.AspiredSet) -> model.AspiredSet:
    return model.AspiredSet(
        order_from_wire(message.order), tuple(version_spec_from_wire(spec) for spec in message.versions)
    )


def desired_model_to_wire(entry: model.DesiredModel) -> desired_pb2.DesiredModel:
    return desired_pb2.DesiredModel(
        tenant=entry.key.tenant,
        model=entry.key.model,
        target=entry.serving.default,
        labels=dict(entry.serving.labels),
        default_answer=entry.default_answer,
        elsewhere=elsewhere_to_wire(entry.elsewhere),
        shares=shares_to_wire(entry.serving),
    )


def desired_model_from_wire(message: desired_pb2.DesiredModel) -> model.DesiredModel:
    return model.DesiredModel(
        ModelKey(message.tenant, message.model),
        serving_from_wire(message.target, message.shares, message.labels),
        message.default_answer,
        elsewhere_from_wire(message.elsewhere),
    )


def desired_to_wire(desired: model.DesiredState) -> desired_pb2.DesiredState:
    return desired_pb2.DesiredState(
        cell=desired.cell,
        generation=desired.generation,
        jobs=[
            desired_pb2.DesiredJob(
                name=job.name,
                runtime=job.runtime,
                versions=[version_spec_to_wire(spec) for spec in job.versions],
                replicas=job.replicas,
            )
            for job in desired.jobs
        ],
        models=[desired_model_to_wire(entry) for entry in desired.models],
        keys=[api_key_to_wire(key) for key in desired.keys],
        limits=[limits_to_wire(limits) for limits in desired.limits],
    )


def desired_from_wire(message: desired_pb2.DesiredState) -> model.DesiredState:
    return model.DesiredState(
        cell=message.cell,
        generation=message.generation,
        jobs=tuple(
            model.DesiredJob(
                job.name,
                Runtime(job.runtime),
                tuple(version_spec_from_wire(spec) for spec in job.versions),
                job.replicas if job.HasField("replicas") else None,
            )
            for job in message.jobs
        ),
        models=tuple(desired_model_from_wire(entry) for entry in message.models),
        keys=tuple(api_key_from_wire(key) for key in message.keys),
        limits=tuple(limits_from_wire(limits) for limits in message.limits),
    )


def pool_to_wire(pool: model.ObservedPool) -> desired_pb2.ObservedPool:
    return desired_pb2.ObservedPool(job=pool.job, workload=pool.workload, replicas=pool.replicas, ready=pool.ready)


def pool_from_wire(message: desired_pb2.ObservedPool) -> model.ObservedPool:
    return model.ObservedPool(message.job, message.workload, message.replicas, message.ready)


def observed_to_wire(observed: model.ObservedCell) -> desired_pb2.ObservedCell:
    return desired_pb2.ObservedCell(
        cell=observed.cell,
        epoch=observed.epoch,
        desired_generation=observed.desired_generation,
        replicas=[
            desired_pb2.ObservedReplica(
                status=replica_status_to_wire(replica.status),
                connected=replica.connected,
                routed=[version_ref_to_wire(key) for key in sorted(replica.routed)],
                seen_at=replica.seen_at,
            )
            for replica in observed.replicas
        ],
        routers=observed.routers,
        pools=[pool_to_wire(pool) for pool in observed.pools],
        wanted=observed.wanted,
    )


def observed_from_wire(message: desired_pb2.ObservedCell) -> model.ObservedCell:
    return model.ObservedCell(
        cell=message.cell,
        epoch=message.epoch,
        desired_generation=message.desired_generation,
        replicas=tuple(
            model.ObservedReplica(
                status=replica_status_from_wire(replica.status),
                connected=replica.connected,
                routed=frozenset(version_ref_from_wire(ref) for ref in replica.routed),
                seen_at=replica.seen_at,
            )
            for replica in message.replicas
        ),
        routers=tuple(message.routers),
        pools=tuple(pool_from_wire(pool) for pool in message.pools),
        wanted=tuple(message.wanted),
    )


def model_route_to_wire(route: model.ModelRoute) -> routes_pb2.ModelRoute:
    return routes_pb2.ModelRoute(
        tenant=route.key.tenant,
        model=route.key.model,
        default_version=route.serving.default,
        labels=dict(route.serving.labels),
        versions=[
            routes_pb2.VersionRoute(
                version=entry.version,
                replicas=entry.replicas,
                reason=entry.reason,
                failed=entry.failed,
                state=entry.state,
            )
            for entry in route.versions
        ],
        default_answer=route.default_answer,
        elsewhere=elsewhere_to_wire(route.elsewhere),
        shares=shares_to_wire(route.serving),
    )


def model_route_from_wire(message: routes_pb2.ModelRoute) -> model.ModelRoute:
    return model.ModelRoute(
        key=ModelKey(message.tenant, message.model),
        serving=serving_from_wire(message.default_version, message.shares, message.labels),
        versions=tuple(
            model.VersionRoute(
                entry.version,
                tuple(entry.replicas),
                entry.reason,
                entry.failed,
                VersionState(entry.state or VersionState.PENDING),
            )
            for entry in message.versions
        ),
        default_answer=message.default_answer,
        elsewhere=elsewhere_from_wire(message.elsewhere),
    )


def delta_to_wire(delta: model.RouteDelta) -> routes_pb2.RouteDelta:
    return routes_pb2.RouteDelta(
        base=delta.base,
        order=order_to_wire(delta.order),
        models=[model_route_to_wire(route) for route in delta.models],
        removed_models=[routes_pb2.ModelRef(tenant=key.tenant, model=key.model) for key in delta.removed_models],
        replicas=[address_to_wire(address) for address in delta.replicas],
        removed_replicas=delta.removed_replicas,
        keys=[api_key_to_wire(key) for key in delta.keys],
        removed_keys=delta.removed_keys,
        limits=[limits_to_wire(limits) for limits in delta.limits],
        removed_limits=delta.removed_limits,
        routers=delta.routers,
    )


def delta_from_wire(message: routes_pb2.RouteDelta) -> model.RouteDelta:
    return model.RouteDelta(
        base=message.base,
        order=order_from_wire(message.order),
        models=tuple(model_route_from_wire(route) for route in message.models),
        removed_models=tuple(ModelKey(ref.tenant, ref.model) for ref in message.removed_models),
        replicas=tuple(address_from_wire(address) for address in message.replicas),
        removed_replicas=tuple(message.removed_replicas),
        keys=tuple(api_key_from_wire(key) for key in message.keys),
        removed_keys=tuple(message.removed_keys),
        limits=tuple(limits_from_wire(limits) for limits in message.limits),
        removed_limits=tuple(message.removed_limits),
        routers=message.routers or 1,
    )
