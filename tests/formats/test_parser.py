"""The grammar of a precopy main channel: what it sees, and what it refuses."""

from __future__ import annotations

import gc
import re
import weakref

import pytest

from formats import events
from formats.errors import (
    FooterMismatch,
    FormatError,
    LimitExceeded,
    SchemaMismatch,
    TruncatedStream,
    UnknownSection,
    UnsupportedStream,
)
from formats.parser import ParserLimits, StreamParser
from formats.savevm import MigCommand, SectionType
from tests import builders as b

HEAD = b.MAGIC + b.configuration()


def parse(wire: bytes, step: int | None = None, limits: ParserLimits | None = None) -> list[events.Event]:
    parser = StreamParser(limits)
    seen: list[events.Event] = []
    for i in range(0, len(wire), step or len(wire)):
        seen += parser.feed(wire[i : i + (step or len(wire))])
    parser.finish()
    return seen


def test_a_whole_stream_event_by_event() -> None:
    wire = b.stream(memory=b.ram() + b.SWITCHOVER_START)
    seen = parse(wire)
    assert b"".join(bytes(event.raw) for event in seen) == wire
    header, configuration, open_return_path, ping, start, bulk, footer, *_, tail = seen
    assert header == events.StreamHeader(0, b.MAGIC, 3)
    assert isinstance(configuration, events.Configuration)
    assert (configuration.machine, configuration.page_bits) == ("virt-10.0", 12)
    assert isinstance(open_return_path, events.Command)
    assert open_return_path.command is MigCommand.OPEN_RETURN_PATH
    assert isinstance(ping, events.Command)
    assert ping.data == b.be32(1)
    assert isinstance(start, events.SectionHeader)
    assert (start.type, start.idstr, start.section_id, start.version_id) == (SectionType.START, "ram", 2, 4)
    assert isinstance(bulk, events.BulkData)
    assert bulk.idstr == "ram"
    assert isinstance(footer, events.SectionFooter)
    assert footer.section_id == 2
    assert isinstance(tail, events.DeviceTail)
    assert [section.device.name for section in tail.sections] == ["arm_gicv3", "cpu_common", "cpu", "slirp"]
    assert bytes(tail.raw[tail.eof : tail.eof + 2]) == b"\x00\x06"
    kinds = [event.type for event in seen if isinstance(event, events.SectionHeader)]
    assert kinds == [SectionType.START, SectionType.PART, SectionType.END]


def test_offsets_are_those_of_the_stream() -> None:
    wire = b.stream()
    for event in parse(wire, step=5):
        assert wire[event.offset : event.offset + len(event.raw)] == bytes(event.raw)


def test_configuration_with_every_subsection() -> None:
    configuration = b.configuration(b"virt-9.2", 16, [b"multifd", b"events"], bytes(range(16)))
    memory = b.start(2, b.mem_size({b"r": 1 << 16}) + b.EOS) + b.end(2, b.page(0, bytes(1 << 16), b"r") + b.EOS)
    wire = b.MAGIC + configuration + memory + b.tail(b.devices(), page_size=1 << 16)
    _, seen, *_ = parse(wire, step=3)
    assert seen == events.Configuration(8, configuration, "virt-9.2", 16, ("multifd", "events"), bytes(range(16)))


def test_events_come_one_by_one_and_the_rest_can_be_taken_elsewhere() -> None:
    parser = StreamParser()
    wire = b.MAGIC + b.configuration(b"pc-q35-9.0", None) + b"whatever a pc sends"
    for event in parser.feed(wire):
        if isinstance(event, events.Configuration):
            break
    assert event.page_bits is None
    assert bytes(parser.rest()) == b"whatever a pc sends"
    assert parser.machine == "pc-q35-9.0"


def test_progress_is_visible() -> None:
    wire = b.stream()
    parser = StreamParser()
    assert (parser.waiting_for, parser.in_device_tail, parser.held_bytes) == ("the file header", False, 0)
    cut = len(wire) - 10
    list(parser.feed(wire[:cut]))
    assert parser.in_device_tail
    assert parser.held_bytes > 0
    assert parser.waiting_for.endswith("without a vmdesc (cut off, or the source runs with suppress-vmdesc=on)")
    assert not parser.complete
    list(parser.feed(wire[cut:]))
    assert parser.complete
    assert (parser.held_bytes, parser.offset) == (0, len(wire))


PREFIXES = b.stream(parts=b.devices()[:1])


def test_every_prefix_is_a_clean_truncation() -> None:
    for end in [*range(700), *range(700, len(PREFIXES), 7)]:
        parser = StreamParser()
        list(parser.feed(PREFIXES[:end]))
        with pytest.raises(TruncatedStream, match="the stream ends"):
            parser.finish()


ONE = b.start(2, b.mem_size({b"r": b.PAGE}) + b.EOS)
BITMAPS = b.start(5, b"\x01", b"dirty-bitmap", 1)

BAD: list[tuple[bytes, type[FormatError], str]] = [
    (b"GET / HTTP/1.1\r\n", SchemaMismatch, "at 0x0: not a migration stream: b'QEVM' expected, found b'GET '"),
    (b"QEVM" + b.be32(2), SchemaMismatch, "at 0x0: stream version 3 expected, found 2 (QEMU calls it obsolete)"),
    (b"QEVM" + b.be32(4), SchemaMismatch, "at 0x0: stream version 3 expected, found 4"),
    (
        b.MAGIC + b"\x01",
        UnsupportedStream,
        (
            "at 0x8: configuration section expected, found none: the source's machine and page size are not known "
            "(-global migration.send-configuration=off, or a machine type before 2.4)"
        ),
    ),
    (
        b.MAGIC + b"\x07" + b.be32(5000),
        LimitExceeded,
        "at 0x8: machine type of at most 255 bytes expected (limit name_bytes), found 5000",
    ),
    (
        b.MAGIC + b.configuration(page_bits=40) + b"\x01",
        SchemaMismatch,
        "at 0x8: target page bits of 10 to 16 expected, found 40",
    ),
    (
        b.MAGIC + b.configuration() + b.subsection(b"configuration/new", 1, b""),
        SchemaMismatch,
        "at 0x8: configuration: unknown subsection 'configuration/new'",
    ),
    (
        b.MAGIC + b.configuration(uuid=bytes(16)) + b.subsection(b"configuration/uuid", 1, bytes(16)),
        SchemaMismatch,
        "at 0x8: configuration: configuration/uuid expected once, found again",
    ),
    (
        b.MAGIC + b.configuration() + b.subsection(b"configuration/capabilities", 1, b.be32(65)),
        LimitExceeded,
        "at 0x8: at most 64 capabilities expected, found 65",
    ),
    (
        b.MAGIC + b.configuration(capabilities=[b"x-ignore-shared"]) + b.POSTCOPY_ADVISE,
        SchemaMismatch,
        "at 0x72: POSTCOPY_ADVISE: expected once, and neither with x-ignore-shared nor in a mapped-ram file",
    ),
    (
        HEAD + b.POSTCOPY_ADVISE * 2,
        SchemaMismatch,
        "at 0x53: POSTCOPY_ADVISE: expected once, and neither with x-ignore-shared nor in a mapped-ram file",
    ),
    (
        b.MAGIC + b.configuration(capabilities=[b"mapped-ram"]) + b"\x01",
        UnsupportedStream,
        "at 0x8: mapped-ram is for files: a socket, a pipe or a packed file cannot carry it",
    ),
    (HEAD + b"\x08\x00\x63\x00\x00", SchemaMismatch, "at 0x3e: command: number 1 to 11 expected, found 99"),
    (
        HEAD + b"\x08\x00\x08\x00\x00",
        UnsupportedStream,
        "at 0x3e: COLO is not supported: the stream would never end (migrate_set_capability x-colo off)",
    ),
    (
        HEAD + b"\x08\x00\x07\x00\x04" + b.be32(0x5000000) + b"\x08",
        LimitExceeded,
        "at 0x47: postcopy package of at most 67108864 bytes expected (limit device_state_bytes), found 83886080",
    ),
    (HEAD + b"\x08\x00\x02\x00\x05", SchemaMismatch, "at 0x3e: command PING: length 4 expected, found 5"),
    (HEAD + b"\x09", SchemaMismatch, "at 0x3e: section type expected, found 0x09"),
    (HEAD + b"\x00", SchemaMismatch, "at 0x3e: device sections expected before the end of the stream, found EOF"),
    (
        HEAD + b.start(2, b"", b"spapr/htab", 1),
        UnknownSection,
        (
            "at 0x3e: iterable section 'spapr/htab'/0 version 1: its end cannot be found "
            "(known: dirty-bitmap version 1, ram version 4, vfio version 1)"
        ),
    ),
    (
        HEAD + b.start(2, b"", b"block", 1),
        UnsupportedStream,
        (
            "at 0x3e: block migration (migrate -b, or migrate_set_capability block on; removed in QEMU 9.1) is not "
            "supported: copy the disks by NBD or keep them on shared storage"
        ),
    ),
    (HEAD + b.part(7, b""), SchemaMismatch, "at 0x3e: section PART: id of an open section expected, found 7"),
    (HEAD + b.end(7, b""), SchemaMismatch, "at 0x3e: section END: id of an open section expected, found 7"),
    (HEAD + ONE + ONE, SchemaMismatch, f"at {0x3E + len(ONE):#x}: section 'ram': id 2 is already open"),
    (
        HEAD + ONE[:-1] + b"\x09",
        FooterMismatch,
        f"at {0x3E + len(ONE) - 5:#x}: section 'ram': footer 7e with id 2 expected, found 7e 00 00 00 09",
    ),
    (
        HEAD + ONE + BITMAPS + b.part(2, b.EOS) + b.end(2, b.EOS) + b.devices()[0].wire(3),
        SchemaMismatch,
        (
            f"at {0x3E + len(ONE + BITMAPS + 2 * b.part(2, b.EOS)):#x}: device sections expected behind the end of "
            "dirty-bitmap, found one before"
        ),
    ),
]


@pytest.mark.parametrize(("wire", "kind", "message"), BAD)
@pytest.mark.parametrize("step", [None, 1])
def test_one_clear_error(wire: bytes, kind: type[FormatError], message: str, step: int | None) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        parse(wire, step)


EARLY = b.Device(b"0000:00:01.0/virtio-mem-device-early", b"plugged: " + b"\x7e" + b.be32(9) + b"!", fields=[])


@pytest.mark.parametrize("step", [None, 1, 5])
@pytest.mark.parametrize("before_ram", [True, False])
def test_a_device_section_before_memory(step: int | None, before_ram: bool) -> None:
    """QEMU 11.1 sends it before the START of RAM, 10.0 behind it. It is never part of the tail."""
    start, rest = ONE, b.part(2, b.page(0, block=b"r") + b.EOS) + b.end(2, b.EOS)
    setup = EARLY.wire(9) + start if before_ram else start + EARLY.wire(9)
    sections = b"".join(device.wire(3 + i) for i, device in enumerate(b.devices()))
    wire = HEAD + setup + rest + sections + b"\0" + b.vmdesc([EARLY, *b.devices()])
    seen = parse(wire, step)
    assert b"".join(bytes(event.raw) for event in seen) == wire
    (early,) = [event for event in seen if isinstance(event, events.EarlySection)]
    assert (bytes(early.raw), early.section_id) == (EARLY.wire(9), 9)
    assert (early.device.idstr, early.device.payload_bytes) == (EARLY.name.decode(), len(EARLY.payload))
    tail = seen[-1]
    assert isinstance(tail, events.DeviceTail)
    assert (tail.early, len(tail.sections)) == ((early.device,), 4)


def test_device_sections_before_memory_are_bounded() -> None:
    message = r"at most 2 device sections before memory expected \(limit sections\)$"
    with pytest.raises(LimitExceeded, match=message):
        parse(HEAD + EARLY.wire(9) * 3 + ONE, limits=ParserLimits(sections=2))


@pytest.mark.parametrize("step", [None, 1])
def test_a_background_snapshot_has_no_end_of_ram(step: int | None) -> None:
    wire = HEAD + ONE + b.part(2, b.page(0, block=b"r") + b.EOS) + b.tail(b.devices())
    seen = parse(wire, step)
    assert isinstance(seen[-1], events.DeviceTail)
    assert len(seen[-1].sections) == 4


@pytest.mark.parametrize("step", [None, 1])
def test_every_kind_of_iterable_section(step: int | None) -> None:
    vfio = b.start(7, b.be64(0xFFFFFFFFEF100003) + b.be64(0xFFFFFFFFEF100001), b"0000:00:02.0/vfio", 1)
    ends = b.end(5, b"\x01") + b.end(7, b.be64(0xFFFFFFFFEF100001)) + b.end(2, b.EOS)
    wire = HEAD + ONE + BITMAPS + vfio + ends + b.tail(b.devices())
    starts = [event.idstr for event in parse(wire, step) if isinstance(event, events.SectionHeader)][:3]
    assert starts == ["ram", "dirty-bitmap", "0000:00:02.0/vfio"]


@pytest.mark.parametrize("step", [None, 1])
def test_blocks_with_hidden_fields(step: int | None) -> None:
    block = b.be64(b.PAGE | b.FLAG_MEM_SIZE) + b.counted(b"r") + b.be64(b.PAGE)
    rest = b.end(2, b.EOS) + b.tail(b.devices())
    shared = b.MAGIC + b.configuration(capabilities=[b"x-ignore-shared"]) + b.start(2, block + b.be64(1 << 30) + b.EOS)
    assert isinstance(parse(shared + rest, step)[-1], events.DeviceTail)
    huge = HEAD + b.POSTCOPY_ADVISE + b.start(2, block + b.be64(1 << 21) + b.EOS)
    assert isinstance(parse(huge + rest, step)[-1], events.DeviceTail)
    # Dirty bitmaps alone advise postcopy, too, but no page sizes come of it.
    with pytest.raises(SchemaMismatch, match=r"flags 0x0 are none"):
        parse(HEAD + b"\x08\x00\x03\x00\x00" + b.start(2, block + b.be64(1 << 21) + b.EOS) + rest, step)


@pytest.mark.parametrize("step", [None, 1, 5])
def test_a_postcopy_package_and_what_follows(step: int | None) -> None:
    package = b.package(b.devices())
    before = b.MAGIC + b.configuration() + b.OPEN_RETURN_PATH + b.POSTCOPY_ADVISE + b.ram()
    wire = before + b.packaged(package) + b"pages, in whatever form"
    seen = parse(wire, step)
    assert b"".join(bytes(event.raw) for event in seen) == wire
    (found,) = [event for event in seen if isinstance(event, events.Package)]
    assert (found.raw, found.offset) == (package, len(before) + 9)
    (header,) = [event for event in seen if isinstance(event, events.PackageHeader)]
    assert header.length == len(package)
    assert isinstance(seen[-1], events.Opaque)


def test_a_package_on_its_way_is_held() -> None:
    parser = StreamParser()
    wire = HEAD + b.packaged(b"x" * 100)
    list(parser.feed(wire[:-30]))
    assert (parser.in_device_tail, parser.held_bytes, parser.waiting_for) == (True, 70, "the postcopy package")
    with pytest.raises(TruncatedStream, match="the stream ends inside the postcopy package"):
        parser.finish()
    list(parser.feed(wire[-30:]))
    assert (parser.held_bytes, parser.complete) == (0, True)
    parser.finish()


def test_a_parser_that_failed_stays_dead() -> None:
    parser = StreamParser()
    for _ in range(2):
        with pytest.raises(SchemaMismatch, match="not a migration stream"):
            list(parser.feed(b"nonsense"))
    with pytest.raises(SchemaMismatch, match="not a migration stream"):
        parser.finish()


def test_limits() -> None:
    wire = b.stream()
    with pytest.raises(LimitExceeded, match=r"limit device_state_bytes"):
        parse(wire, limits=ParserLimits(device_state_bytes=64))
    with pytest.raises(LimitExceeded, match=r"at most 3 device sections expected \(limit sections\), found 4"):
        parse(wire, limits=ParserLimits(sections=3))
    with pytest.raises(LimitExceeded, match=r"section name of at most 9 bytes expected .*, found 'cpu_common'"):
        parse(wire, limits=ParserLimits(name_bytes=9))
    with pytest.raises(LimitExceeded, match=r"section name of at most 9 bytes expected \(limit name_bytes\), found 10"):
        parse(HEAD + b.start(2, b"", b"0123456789"), limits=ParserLimits(name_bytes=9))
    one = b.start(2, b.EOS) + b.end(2, b.EOS)
    with pytest.raises(LimitExceeded, match=r"at most 2 iterable sections expected \(limit sections\)"):
        parse(HEAD + one * 3, limits=ParserLimits(sections=2))


def test_bytes_behind_the_vmdesc() -> None:
    wire = b.stream()
    with pytest.raises(SchemaMismatch, match=r"end of the stream expected, found 3 bytes more$"):
        parse(wire + b"abc")
    parser = StreamParser()
    list(parser.feed(wire))
    with pytest.raises(SchemaMismatch, match=r"end of the stream expected behind the vmdesc, found more bytes$"):
        list(parser.feed(b"a"))


def test_a_closed_parser_lets_go_of_what_it_held_at_once() -> None:
    """Not when Python happens to look for cycles of references."""
    gc.disable()
    try:
        parser = StreamParser()
        list(parser.feed(b.MAGIC + b.configuration() + b.ram() + b.Device(b"device", bytes(1000)).wire(9)))
        assert parser.held_bytes > 1000
        kept = weakref.ref(parser)
        parser.close()
        assert parser.held_bytes == 0
        del parser
        assert kept() is None
    finally:
        gc.enable()


def test_a_closed_parser_is_dead() -> None:
    parser = StreamParser()
    parser.close()
    with pytest.raises(TruncatedStream, match="the parser was closed"):
        parser.finish()
    with pytest.raises(TruncatedStream, match="the parser was closed"):
        list(parser.feed(b"x"))
