"""Opens the artifact store that a URL names. A kind of store is imported only when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from berth.artifacts.store import ArtifactStore
from berth.settings import SettingsError


def open_store(url: str, aws: Mapping[str, str] | None = None) -> ArtifactStore:
    """Open `file:///absolute/folder`, `s3://bucket/prefix`, or `memory://` (a new, empty one for tests).

    `aws` holds AWS_* settings such as AWS_ENDPOINT_URL. Raises `SettingsError` for a URL that is none of these.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from berth.artifacts.local import LocalArtifacts

        return LocalArtifacts(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from berth.artifacts.objects import s3_artifacts

        return s3_artifacts(parts.netloc, parts.path.strip("/"), aws or {})
    if url == "memory://":
        from berth.artifacts.objects import memory_artifacts

        return memory_artifacts()
    raise SettingsError(f"{url!r} is no artifact store: use file:///absolute/folder or s3://bucket/prefix")
