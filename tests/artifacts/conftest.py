"""The stores that pass one conformance suite: a folder, memory, S3, and S3 as used for objects too large to copy."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import MemoryStore, S3Store

from berth.artifacts.objects import ObjectArtifacts
from berth.artifacts.opening import open_store
from berth.artifacts.store import ArtifactStore


@dataclass
class Subject:
    """A store with a back door: what it holds by name (unfinished uploads too), and a way to plant a draft."""

    store: ArtifactStore
    names: Callable[[], set[str]]
    plant: Callable[[str, bytes], None]


@pytest.fixture(scope="session")
def s3_settings() -> Iterator[dict[str, str]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    server.stop()


def local_subject(root: Path) -> Subject:
    store = open_store(root.as_uri())

    def names() -> set[str]:
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def plant(name: str, data: bytes) -> None:
        (root / "tmp" / name).write_bytes(data)

    return Subject(store, names, plant)


def memory_subject() -> Subject:
    raw = MemoryStore()

    def names() -> set[str]:
        return {entry["path"] for page in obstore.list(raw) for entry in page}

    def plant(name: str, data: bytes) -> None:
        obstore.put(raw, f"tmp/{name}", data)

    return Subject(ObjectArtifacts(raw, "memory"), names, plant)


def s3_subject(settings: dict[str, str], copy_limit: int | None) -> Subject:
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    client = boto3.client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket=bucket)
    if copy_limit is None:
        store = open_store(f"s3://{bucket}/some/prefix", settings)
    else:
        config: Any = settings  # obstore checks the names itself
        raw = S3Store(bucket, prefix="some/prefix", config=config, client_options={"allow_http": True})
        store = ObjectArtifacts(raw, bucket, copy_limit=copy_limit)

    def names() -> set[str]:
        objects = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return {entry["Key"].removeprefix("some/prefix/") for entry in objects} | {
            f"unfinished {entry['Key']}" for entry in uploads
        }

    def plant(name: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"some/prefix/tmp/{name}", Body=data)

    return Subject(store, names, plant)


@pytest.fixture(params=["local", "memory", "s3", "s3 by reading"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    match request.param:
        case "local":
            yield local_subject(tmp_path / "artifacts")
        case "memory":
            yield memory_subject()
        case "s3":
            yield s3_subject(request.getfixturevalue("s3_settings"), None)
        case _:
            yield s3_subject(request.getfixturevalue("s3_settings"), 0)
