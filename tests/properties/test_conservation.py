"""Conservation: for every stream and every chunking, the events' raw bytes are the input, byte for byte."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import events
from formats.errors import FormatError, TruncatedStream
from formats.parser import StreamParser
from tests import builders as b
from tests import recorded

SMALL = b.stream(parts=b.devices(2))


def merged(seen: Iterable[events.Event]) -> Iterator[tuple[object, ...]]:
    """Events as comparable facts, with neighbouring pieces of bulk put together: chunking must not show."""
    bulk: tuple[int, str, bytes] | None = None
    for event in seen:
        raw = bytes(event.raw)
        if isinstance(event, events.BulkData):
            bulk = (bulk[0], bulk[1], bulk[2] + raw) if bulk else (event.offset, event.idstr, raw)
            continue
        if bulk:
            yield bulk
            bulk = None
        yield (type(event).__name__, event.offset, raw)


def parse(chunks: Iterable[bytes]) -> list[events.Event]:
    parser = StreamParser()
    seen: list[events.Event] = []
    for chunk in chunks:
        seen += parser.feed(chunk)
    parser.finish()
    return seen


def cuts(wire: bytes, at: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(wire)]
    return [wire[i:j] for i, j in itertools.pairwise(edges)]


@given(st.sets(st.integers(0, len(SMALL)), max_size=40))
def test_any_cuts_of_a_built_stream(at: set[int]) -> None:
    assert list(merged(parse(cuts(SMALL, at)))) == list(merged(parse([SMALL])))


@pytest.mark.parametrize("name", recorded.names())
def test_every_recorded_stream_whole_and_in_pieces(name: str) -> None:
    wire = recorded.load(name)
    whole = parse([wire])
    assert b"".join(bytes(event.raw) for event in whole) == wire
    facts = list(merged(whole))
    for step in (4096, 65521):
        assert list(merged(parse(wire[i : i + step] for i in range(0, len(wire), step)))) == facts


@pytest.fixture
def untraced() -> Iterator[None]:
    """Half a million chunks a stream: coverage's tracer would make minutes of seconds, and learn nothing new."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name", recorded.names())
def test_a_recorded_stream_byte_by_byte(name: str) -> None:
    wire = recorded.load(name)
    parser = StreamParser()
    out, count = hashlib.sha256(), 0
    for i in range(len(wire)):
        for event in parser.feed(wire[i : i + 1]):
            out.update(event.raw)
            count += len(event.raw)
    parser.finish()
    assert (count, out.digest()) == (len(wire), hashlib.sha256(wire).digest())


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(recorded.names()), data=st.data())
def test_random_cuts_of_recorded_streams(name: str, data: st.DataObject) -> None:
    wire = recorded.load(name)
    at = data.draw(st.sets(st.integers(0, len(wire)), max_size=200))
    assert b"".join(bytes(event.raw) for event in parse(cuts(wire, at))) == wire


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(recorded.names()), data=st.data())
def test_every_prefix_of_a_recorded_stream_is_truncated(name: str, data: st.DataObject) -> None:
    wire = recorded.load(name)
    end = data.draw(st.integers(0, len(wire) - 1))
    with pytest.raises(TruncatedStream):
        parse([wire[:end]])


@given(st.binary(max_size=300))
def test_garbage_raises_only_format_errors(garbage: bytes) -> None:
    for start in (b"", b.MAGIC, b.MAGIC + b.configuration()):
        with pytest.raises(FormatError):
            parse([start + garbage])


@settings(deadline=None)
@given(at=st.integers(0, len(SMALL) - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_never_changes_what_is_passed_on(at: int, flip: int) -> None:
    """Whatever is parsed before the error is a prefix of the input: a refusal can never invent bytes."""
    wire = bytearray(SMALL)
    wire[at] ^= flip
    parser, out = StreamParser(), b""
    try:
        for event in parser.feed(bytes(wire)):
            out += bytes(event.raw)
        parser.finish()
    except FormatError:
        pass
    assert bytes(wire).startswith(out)
