"""Coverage-guided fuzzing of the four connections, by hand: `python -m bench.fuzz.http FOLDER -max_total_time=600`.

Needs atheris (`pip install atheris`, not among the development dependencies). `--unpack FOLDER` fills FOLDER from the
corpus that is kept in `http_corpus.txt` (an input in hexadecimal per line, played by the tests too);
`--pack FOLDER` keeps it again. `--parser server1` (client1, server2, client2) tries only that one. Other arguments are
libFuzzer's.

An input is a script: its first byte chooses the connection and its limits; then each step has a byte that says what
the shell does and how many bytes of the rest arrive. The state is validated after every step, so a find is a crash, a
hang, or an inconsistent state. What a shell may do wrong is not tried here: its `LocalError` would be right.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from berth.http.events import ConnectionClosed, DataReceived, Event, RequestReceived
from berth.http.http1.client import Http1Client
from berth.http.http1.server import Http1Server
from berth.http.http2 import frames
from berth.http.http2.client import Http2Client
from berth.http.http2.server import Http2Server
from berth.http.limits import Http1Limits, Http2Limits

_PARSERS = ("server1", "client1", "server2", "client2")
"""In the order of the choice that a script's first byte makes."""
_CORPUS = Path(__file__).with_name("http_corpus.txt")

Connection = Http1Server | Http1Client | Http2Server | Http2Client

_SMALL1 = Http1Limits(head=300, fields=8, trailers=60, body=200, buffer=100, discard=60, chunk_extensions=20, memo=200)
_SMALL2 = Http2Limits(
    max_streams=4, stream_window=50, connection_window=65_535, header_block=300, header_list=500, continuations=3,
    body=200, memo=300, control_frames=60, resets=6,
)  # fmt: skip


def _open(choice: int) -> Connection:
    small = bool(choice & 4)
    connection: Connection
    match choice & 3:
        case 0:
            return Http1Server(_SMALL1 if small else None)
        case 1:
            connection = Http1Client(_SMALL1 if small else None)
            connection.open(connection.encode_request(b"GET", b"h", b"/"), True, head_only=bool(choice & 8))
            return connection
        case 2:
            connection = Http2Server(_SMALL2 if small else None)
            connection.receive(frames.PREFACE + (frames.settings({}) if choice & 8 else b""))
            return connection
        case _:
            connection = Http2Client(_SMALL2 if small else None)
            connection.receive(frames.settings({}) if choice & 8 else b"")
            for end in (False, True):
                connection.open(connection.encode_request(b"POST", b"http", b"h", b"/"), end)
            connection.send_data(1, bytes(70_000))
            return connection


def _answer(connection: Connection, events: list[Event], step: int) -> None:
    for event in events:
        if isinstance(event, RequestReceived) and isinstance(connection, Http1Server | Http2Server):
            stream_id = event.stream_id
            if step & 1:
                connection.send_informational(stream_id, connection.encode_response(100))
            connection.send_head(stream_id, connection.encode_response(200), length=6 if step & 2 else None)
            connection.send_data(stream_id, b"answer")
            if step & 4:
                connection.send_trailers(stream_id, connection.encode_fields(((b"t", b"1"),)))
            else:
                connection.send_data(stream_id, b"", True)
        elif isinstance(event, DataReceived) and step & 8:
            connection.consume(event.stream_id, len(event.data))


def run_script(script: bytes) -> None:
    """Play one input. Raises what is to be found."""
    if not script:
        return
    connection = _open(script[0])
    connection.validate()
    now, pos, ended = 0.0, 1, False
    while pos < len(script):
        step, size = script[pos], 1 + script[pos] % 61
        wire = script[pos + 1 : pos + 1 + size]
        pos += 1 + size
        events = connection.receive(wire)
        connection.validate()
        if ended and events:
            raise AssertionError(f"events after the end: {events}")
        ended = ended or any(isinstance(event, ConnectionClosed) for event in events)
        _answer(connection, events, step)
        if step & 16:
            connection.pause()
        if step & 32:
            connection.resume()
        if step & 64:
            now += 1.0
            connection.tick(now)
        if step & 128:
            connection.output()
        connection.validate()
        repr(connection)
    connection.eof()
    connection.validate()


def _seeds() -> list[bytes]:
    """What a script needs to get anywhere: whole requests and frames, in each kind of connection."""
    http1 = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: 1\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    block = Http2Server.encode_request(b"POST", b"http", b"h", b"/")
    http2 = (
        frames.settings({}) + frames.headers(1, block, end_stream=False, max_frame=2**14)
        + frames.frame(frames.DATA, frames.END_STREAM, 1, b"hello") + frames.window_update(0, 9) + frames.ping(bytes(8))
    )  # fmt: skip
    reply = frames.headers(1, Http2Server.encode_response(200), end_stream=False, max_frame=2**14) + frames.frame(
        frames.DATA, frames.END_STREAM, 1, b"hello"
    )
    found = []
    for choice, wire in (
        (0, http1),
        (1, answer),
        (2, http2),
        (10, http2),
        (3, frames.settings({}) + reply),
        (11, reply),
    ):
        for variant in (choice, choice | 4):
            script = bytes([variant])
            for at in range(0, len(wire), 61):
                script += b"\xbc" + wire[at : at + 61]  # 188: 61 bytes follow
            found.append(script)
    return found


def corpus() -> list[bytes]:
    """The inputs that are kept, behind those that everything began with."""
    kept = _CORPUS.read_text("ascii").split() if _CORPUS.exists() else []
    return _seeds() + [bytes.fromhex(line) for line in kept]


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--unpack":
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        for number, script in enumerate(corpus()):
            (folder / f"kept-{number}").write_bytes(script)
        return
    if len(sys.argv) == 3 and sys.argv[1] == "--pack":
        inputs = {path.read_bytes().hex() for path in Path(sys.argv[2]).iterdir()}
        _CORPUS.write_text("".join(f"{line}\n" for line in sorted(inputs)), "ascii")
        return
    play = run_script
    if "--parser" in sys.argv:
        at = sys.argv.index("--parser")
        only = _PARSERS.index(sys.argv[at + 1])
        del sys.argv[at : at + 2]

        def play(script: bytes) -> None:
            run_script(bytes([script[0] & ~3 | only]) + script[1:] if script else script)

    # Imported by name: there are no types for it, and it is not installed where types are checked.
    atheris = importlib.import_module("atheris")

    atheris.instrument_all()
    atheris.Setup(sys.argv, play)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
