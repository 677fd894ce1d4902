"""Requests to a worker over HTTP/1.1, by aiohttp."""

from __future__ import annotations

import aiohttp
from yarl import URL

from berth.auth.peer import PeerCredential
from berth.model import ReplicaAddress
from router.call import Call, Failed, OpenUpstream, Reply
from router.core.attempts import Failure
from router.core.paths import Operation
from router.headers import NOT_STARTED, REQUEST_ID, TIMEOUT_MS, rest_to_client, timeout_text

# A host that does not answer SYN; one that is up answers at once.
_CONNECT_TIMEOUT = 1.0
# Shorter than a worker keeps an idle connection, so that we are the ones who close it.
_KEEP_ALIVE = 15.0

_ROUTES = {
    Operation.INFER: ("POST", "/infer"),
    Operation.METADATA: ("GET", ""),
    Operation.READY: ("GET", "/ready"),
}


def open_rest(credential: PeerCredential) -> OpenUpstream:
    """Makes upstreams that carry `credential`."""
    tls = credential.client_tls()

    def open_upstream(address: ReplicaAddress) -> RestUpstream:
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=_KEEP_ALIVE, ssl=True if tls is None else tls, ttl_dns_cache=10
        )
        return RestUpstream(connector, f"{credential.scheme}://{address.http}", credential.headers())

    return open_upstream


class _Body(aiohttp.BytesPayload):
    """Bytes that are in memory anyway, sent as they are: aiohttp warns of large ones, and would use a thread."""

    def __init__(self, body: bytes) -> None:
        aiohttp.payload.Payload.__init__(self, body, content_type="application/octet-stream")
        self._size = len(body)


class RestUpstream:
    def __init__(self, connector: aiohttp.TCPConnector, base: str, headers: dict[str, str]) -> None:
        self._base = base
        self._headers = tuple(headers.items())
        # Deadlines are the forwarder's: it cancels. Bytes pass as they are: nothing is decompressed or added.
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def send(self, call: Call, servable: str, timeout: float) -> Reply:
        method, suffix = _ROUTES[call.operation]
        headers = [(name, value) for name, value in call.headers if isinstance(value, str)]
        headers += [*self._headers, (REQUEST_ID, call.request_id), (TIMEOUT_MS, timeout_text(timeout))]
        url = URL(f"{self._base}/v2/models/{servable}{suffix}", encoded=True)
        try:
            async with self._session.request(
                method, url, data=_Body(call.body) if call.body else None, headers=headers, allow_redirects=False
            ) as response:
                body = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Failed(Failure.UNREACHED, str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Failed(Failure.BROKEN, repr(error)) from error
        if NOT_STARTED in response.headers:
            raise Failed(Failure.NOT_STARTED, f"refused with {response.status}")
        return Reply(response.status, rest_to_client(response.headers.items()), body, faulty=response.status >= 500)

    async def close(self) -> None:
        await self._session.close()
