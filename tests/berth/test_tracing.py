"""What is believed of a traceparent, and what becomes of spans."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from berth.settings import ProcessSettings
from berth.tracing import Parent, Tracing, fields_of, open_tracing, parent_of
from doubles.otlp_collector import OtlpCollector

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
IDS = int(TRACE, 16), int(SPAN, 16)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(*IDS, True)),
        (f"00-{TRACE}-{SPAN}-00", Parent(*IDS, False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(*IDS, True)),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", Parent(*IDS, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f" 00-{TRACE}-{SPAN}-01", None),
        (f"cc-{TRACE}-{SPAN}-01-{'x' * 600}", None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_as_the_standard_has_it(value: str, expected: Parent | None) -> None:
    assert parent_of(((b"x-other", b"1"), (b"traceparent", value.encode()))) == expected


def test_two_traceparents_are_none() -> None:
    field = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    assert parent_of((field,)) is not None
    assert parent_of((field, field)) is None


@given(st.binary(max_size=80))
def test_no_traceparent_is_too_odd(value: bytes) -> None:
    parent = parent_of(((b"traceparent", value),))
    assert parent is None or (parent.trace_id > 0 and parent.span_id > 0)


def test_without_a_collector_there_is_no_tracing() -> None:
    assert open_tracing(ProcessSettings(), "router") is None


async def test_spans_reach_the_collector_when_the_process_ends() -> None:
    async with OtlpCollector().serve() as collector:
        tracing = Tracing(collector.endpoint + "/", 0.0, {"service.name": "berth-test"})
        given = ((b"traceparent", f"00-{TRACE}-{SPAN}-01".encode()), (b"tracestate", b"a=b"))
        assert tracing.begin("infer", SpanKind.SERVER, ()) is None
        assert tracing.begin("infer", SpanKind.SERVER, ((b"traceparent", f"00-{TRACE}-{SPAN}-00".encode()),)) is None
        span = tracing.begin("infer", SpanKind.SERVER, given)
        assert span is not None
        child = tracing.child(span, "attempt", SpanKind.CLIENT)
        passed = fields_of(child, given)
        child.end()
        span.end()
        await tracing.close()
    [attempt] = collector.named("attempt")
    [infer] = collector.named("infer")
    assert (infer.service, infer.kind, infer.trace_id, infer.parent_id) == ("berth-test", "server", TRACE, SPAN)
    assert (attempt.kind, attempt.trace_id, attempt.parent_id) == ("client", TRACE, infer.span_id)
    assert passed == ((b"traceparent", f"00-{TRACE}-{attempt.span_id}-01".encode()), (b"tracestate", b"a=b"))
    assert 0 < infer.start <= attempt.start <= attempt.end <= infer.end


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_a_share_of_what_brings_no_trace_is_traced(share: float) -> None:
    async with OtlpCollector().serve() as collector:
        tracing = Tracing(collector.endpoint, share, {"service.name": "berth-test"})
        for fields in ((), ((b"traceparent", b"nonsense"),), ((b"tracestate", b"a=b"),)):
            span = tracing.begin("infer", SpanKind.SERVER, fields)
            assert (span is not None) == bool(share)
            if span is not None:
                # A state without a trace belongs to nobody.
                assert [name for name, _ in fields_of(span, fields)] == [b"traceparent"]
                span.end()
        await tracing.close()
    assert len(collector.spans) == 3 * share
    assert len({span.trace_id for span in collector.spans}) == 3 * share


async def test_a_collector_that_is_not_there_does_not_hold_up_the_end() -> None:
    tracing = Tracing("http://127.0.0.1:1", 1.0, {"service.name": "berth-test"})
    span = tracing.begin("infer", SpanKind.SERVER, ())
    assert span is not None
    span.end()
    async with asyncio.timeout(10):
        await tracing.close()
