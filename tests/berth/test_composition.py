"""How a process is put together and taken down: the order, failures of parts, and cancellation where it can land."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest

from berth.composition import Composition, composing
from berth.settings import ProcessSettings, SettingsError


@pytest.fixture
def settings(tmp_path: Path) -> ProcessSettings:
    (tmp_path / "token").write_text("t" * 40)
    return ProcessSettings(credential_file=tmp_path / "token")


class Diary:
    """What began and ended, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @asynccontextmanager
    async def part(self, name: str) -> AsyncIterator[str]:
        self.lines.append(f"+{name}")
        try:
            yield name
        finally:
            self.lines.append(f"-{name}")
            await asyncio.sleep(0)

    async def work(self, name: str) -> None:
        async with self.part(name):
            await asyncio.Event().wait()

    async def note(self, line: str) -> None:
        await asyncio.sleep(0)
        self.lines.append(line)


async def compose(process: Composition, diary: Diary) -> None:
    process.at_end(diary.note, "the very end")
    assert await process.open(diary.part("database")) == "database"
    process.at_end(diary.lines.append, "between")
    process.beside("loop", diary.work("loop"))
    await asyncio.sleep(0)
    await process.open(diary.part("port"))


END = ["-port", "-loop", "between", "-database", "the very end"]


async def test_what_came_last_goes_first_and_is_waited_for(settings: ProcessSettings) -> None:
    diary = Diary()

    async with composing(settings, asyncio.Event()) as process:
        await compose(process, diary)
        diary.lines.append("serving")

    assert diary.lines == ["+database", "+loop", "+port", "serving", *END]


async def test_a_loop_that_fails_takes_everything_down(settings: ProcessSettings) -> None:
    diary = Diary()
    stop = asyncio.Event()

    async def fail() -> None:
        raise RuntimeError("a fault of ours")

    async def serve() -> None:
        async with composing(settings, stop) as process:
            await compose(process, diary)
            process.beside("faulty", fail())
            await stop.wait()

    with pytest.raises(ExceptionGroup) as caught:
        await serve()

    assert [str(error) for error in caught.value.exceptions] == ["a fault of ours"]
    assert diary.lines[3] == "-loop", "other loops are cancelled at once"
    assert sorted(diary.lines[3:]) == sorted(END)


async def test_a_body_that_fails_takes_everything_down(settings: ProcessSettings) -> None:
    diary = Diary()

    async def serve() -> None:
        async with composing(settings, asyncio.Event()) as process:
            await compose(process, diary)
            raise RuntimeError("a fault of ours")

    with pytest.raises(ExceptionGroup) as caught:
        await serve()

    assert [str(error) for error in caught.value.exceptions] == ["a fault of ours"]
    assert diary.lines[3:] == END


@pytest.mark.parametrize("in_a_loop", [False, True])
async def test_a_wrong_setting_comes_out_bare(settings: ProcessSettings, *, in_a_loop: bool) -> None:
    diary = Diary()
    stop = asyncio.Event()

    async def refuse() -> None:
        raise SettingsError("BERTH_X: not this one")

    async def serve() -> None:
        async with composing(settings, stop) as process:
            await compose(process, diary)
            if in_a_loop:
                process.beside("refusing", refuse())
                await stop.wait()
            await refuse()

    with pytest.raises(SettingsError, match=r"^BERTH_X: not this one$"):
        await serve()

    assert sorted(diary.lines[3:]) == sorted(END)


async def test_without_a_credential_nothing_begins() -> None:
    process = composing(ProcessSettings(), asyncio.Event())
    with pytest.raises(SettingsError, match="no credential"):
        await process.__aenter__()


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancellation_takes_everything_down_wherever_it_lands(settings: ProcessSettings, turns: int) -> None:
    diary = Diary()

    async def process_of_it() -> None:
        async with composing(settings, asyncio.Event()) as process:
            await compose(process, diary)
            await asyncio.sleep(0)

    task = asyncio.create_task(process_of_it())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    begun = [line[1:] for line in diary.lines if line[0] == "+"]
    ended = [line[1:] for line in diary.lines if line[0] == "-"]
    assert sorted(begun) == sorted(ended)


async def test_the_admin_port_answers_until_the_end(settings: ProcessSettings) -> None:
    reason: str | None = "starting"

    async with composing(settings, asyncio.Event()) as process:
        held = process.hold(contextmanager(lambda: iter(["held"]))())
        port = await process.serve_admin(lambda: reason)
        async with aiohttp.ClientSession() as client:
            url = f"http://127.0.0.1:{port}/readyz"
            async with client.get(url) as answer:
                assert (answer.status, await answer.text()) == (503, "starting\n")
            reason = None
            async with client.get(url) as answer:
                assert answer.status == 200

    assert held == "held"
