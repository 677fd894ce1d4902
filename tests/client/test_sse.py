from hypothesis import given
from hypothesis import strategies as st

from berth.client.sse import EventStream, SseMessage


def feed(stream: EventStream, *lines: str) -> list[SseMessage]:
    return [message for line in lines if (message := stream.feed(line)) is not None]


def test_a_message_ends_with_an_empty_line_and_keeps_its_id() -> None:
    stream = EventStream()
    assert feed(stream, "id: 7", "data: {}", "") == [SseMessage("7", "{}")]
    assert stream.last_id == "7"


def test_comments_are_heartbeats_and_several_data_lines_are_one_text() -> None:
    assert feed(EventStream(), ": alive", "", "data: a", "data:b", "event: x", "") == [SseMessage("", "a\nb")]


def test_half_a_message_is_forgotten_with_its_connection() -> None:
    stream = EventStream(last_id="3")
    feed(stream, "id: 4", "data: lost")
    stream.reset()
    assert feed(stream, "id: 4", "data: again", "") == [SseMessage("4", "again")]


def test_the_server_may_ask_for_another_delay() -> None:
    stream = EventStream()
    feed(stream, "retry: 250", "retry: soon")
    assert stream.retry_s == 0.25


@given(st.lists(st.text(alphabet="id:aet \x00", max_size=12)))
def test_no_input_breaks_it(lines: list[str]) -> None:
    stream = EventStream()
    for line in lines:
        message = stream.feed(line)
        assert message is None or message.id == stream.last_id
