"""What is fed with hostile input, and what must hold.

A target makes its input of the choices it is given, feeds it, and returns a word for what came of it. A property that
does not hold is an AssertionError; any other exception that is not documented escapes, which is a finding as well.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from formats import events
from formats.channel import MULTIFD_INIT_BYTES, MultifdInit, classify
from formats.errors import FormatError, LimitExceeded
from formats.files.libvirt_image import parse_header
from formats.parser import ParserLimits, StreamParser
from formats.qemu_log import parse_log, registers_in
from formats.return_path import ReturnPathReader
from formats.vmdesc import parse_vmdesc
from proxyd import config_file
from proxyd.config import ConfigError
from proxyd.control.protocol import ControlError, read_request
from proxyd.rewrite.host import HostDescription, HostError
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination
from proxyd.rewrite.policy import PostcopyPolicy, ReturnPathPolicy, RewritePolicy, StreamLimits
from proxyd.rewrite.profile import Profile, ProfileError
from proxyd.rewrite.rehearsal import Finding, FindingKind, Rehearsal
from proxyd.rewrite.rewriter import MAX_PROLOGUE_BYTES, Phase, RewriteRefused, StreamRewriter
from proxyd.rewrite.tail import SelfCheckFailed
from tests import builders as b
from tests import recorded
from tests.fuzz import documents, streams
from tests.fuzz.choices import Choices, Target

# A chunk of the longest stream that is made, and what the parser may hold beside device state: a header, a footer.
SLACK_BYTES: Final = 64 << 10

_CONFIG: Final = """\
[metrics]
listen = "127.0.0.1:9469"
[log]
level = "info"
format = "text"
[limits]
header_time_s = 30
connections = 1024
device_state_bytes = 67108864
[rehearsal]
socket = "/run/proxyd/rehearse.sock"
[control]
socket = "/run/proxyd-control/control.sock"
[[route]]
name = "a"
listen = "127.0.0.1:4444"
destination = "192.0.2.1:4444"
allow = ["TCR2_EL1", "0x603000000013c103"]
return_path = "optional"
postcopy = "sources-10.2"
source_networks = ["192.0.2.0/24"]
[[route]]
name = "b"
listen = "127.0.0.1:5000-5010"
destination = "host:same"
destination_host = "host.json"
[route.tls]
source = "/etc/pki"
source_identities = ["CN=a"]
"""
_PROFILE: Final = """\
name = "x"
[destination]
kernel = "6.12"
[[rule]]
kind = "remove"
register = "TCR2_EL1"
when = "ID_AA64MMFR3_EL1.TCRX == 0 and not (PIR_EL1 != 0 or listed(TCR2_EL1))"
reason = "r"
[[rule]]
kind = "set-bits"
register = "0x603000000013c103"
bits = "0bxxxx_0001"
reason = "r"
verdict = "lossy"
"""


@cache
def hosts() -> tuple[HostDescription, ...]:
    """Two real destinations, one old and one new."""
    return tuple(HostDescription.parse(recorded.host_json(kernel, "neoverse-n1"), kernel) for kernel in ("6.1", "7.3"))


@cache
def policies() -> tuple[RewritePolicy, ...]:
    """Every kind of route."""
    knowledge = Knowledge.builtin()
    old, new = (Destination(host) for host in hosts())
    anywhere = ReturnPathPolicy.OPTIONAL
    return (
        RewritePolicy(None, knowledge, return_path=anywhere),
        RewritePolicy(new, knowledge, return_path=anywhere, postcopy=PostcopyPolicy.SOURCES_10_2),
        RewritePolicy(old, knowledge, postcopy=PostcopyPolicy.MAY_LOSE_GUEST),
        RewritePolicy(new, knowledge),
        RewritePolicy(new, knowledge, return_path=anywhere, rehearse=True, postcopy=PostcopyPolicy.MAY_LOSE_GUEST),
        RewritePolicy(Destination(None, Profile.parse(_PROFILE.encode(), "p")), knowledge, return_path=anywhere),
    )


def _limits(choices: Choices) -> StreamLimits:
    if choices.below(3):
        return StreamLimits()
    return StreamLimits(choices.pick((1 << 16, 4096, 64)), choices.pick((8, 1)), choices.pick((400, 4)), 40)


def _stream(choices: Choices) -> streams.Stream:
    registers = tuple(host.registers for host in hosts())
    return streams.stream(choices, registers)


def parser(choices: Choices) -> str:
    """Every byte of what was understood is in exactly one event, and an honest stream is understood as it was meant."""
    made = _stream(choices)
    limits = _limits(choices)
    reader = StreamParser(
        ParserLimits(limits.device_state_bytes, limits.sections, limits.name_bytes),
        seekable_from=0 if choices.sometimes(8) else None,
    )
    out, found = b"", None
    try:
        for piece in streams.pieces(choices, made.wire):
            for event in reader.feed(piece):
                out += bytes(event.raw)
                found = event if isinstance(event, events.DeviceTail) else found
            assert reader.held_bytes <= limits.device_state_bytes + SLACK_BYTES, "held more than it may"
        reader.finish()
    except FormatError as error:
        assert made.wire.startswith(out), "events are not the stream"
        if made.honest and not isinstance(error, LimitExceeded):
            raise AssertionError(f"an honest stream: {error}") from error
        return type(error).__name__
    assert out == made.wire, "events are not the stream"
    if made.honest:
        assert found is not None
        cut = tuple((one.name, bytes(found.raw[one.payload_start : one.payload_end])) for one in found.sections)
        assert cut == made.devices, "sections are not those of the source"
    return "whole"


def rewriter(choices: Choices) -> str:
    """What comes out before a refusal is a prefix of what a pure pass-through would have sent, and nothing that is held
    is part of it; what comes out after a release differs in vCPUs and numbers of the description alone."""
    made = _stream(choices)
    policy = choices.pick(policies())
    limits = _limits(choices)
    machine = StreamRewriter(policy, limits)
    out = b""
    try:
        for piece in streams.pieces(choices, made.wire):
            out += b"".join(map(bytes, machine.feed(piece)))
            if machine.planned is not None:
                out += b"".join(map(bytes, machine.release(_rehearsal(choices, machine))))
            held = limits.device_state_bytes + MAX_PROLOGUE_BYTES + 2 * SLACK_BYTES
            assert machine.held_bytes <= held, "held more than it may"
        out += b"".join(map(bytes, machine.finish()))
    except (FormatError, RewriteRefused, SelfCheckFailed) as error:
        if isinstance(error, SelfCheckFailed):
            raise AssertionError(f"a rewrite is not what its plan says: {error}") from error  # noqa: TRY004
        if machine.phase is not Phase.RELEASED:
            assert made.wire.startswith(out), "what was passed on is not what came"
            assert machine.tail_offset is None or len(out) <= machine.tail_offset, (
                "device state left before its release"
            )
        limited = isinstance(error, RewriteRefused | LimitExceeded)
        if made.honest and not limited and "cpreg" not in str(error):
            raise AssertionError(f"an honest stream: {error}") from error
        return type(error).__name__
    if machine.report is None or not machine.report.plan.changes:
        assert out == made.wire, "nothing was to change"
        return "passed"
    if made.honest:
        _only_vcpus_differ(made, out)
    return "rewritten"


def _rehearsal(choices: Choices, machine: StreamRewriter) -> Rehearsal:
    assert machine.planned is not None
    kind = choices.pick((None, *FindingKind))
    register = next(iter(hosts()[0].registers))
    findings = () if kind is None else (Finding(0, register, kind, 1, 2, "EINVAL"),)
    return Rehearsal(findings, (), "7.3", 0, 0.0)


def _only_vcpus_differ(made: streams.Stream, out: bytes) -> None:
    reader = StreamParser()
    found = [event for event in reader.feed(out) if isinstance(event, events.DeviceTail)]
    reader.finish()
    assert len(found) == 1, "what was rewritten has no device state"
    tail = found[0]
    assert out[: tail.offset] == made.wire[: tail.offset], "something before the device state has changed"
    now = [(one.name, bytes(tail.raw[one.payload_start : one.payload_end])) for one in tail.sections]
    assert [name for name, _ in now] == [name for name, _ in made.devices]
    for (name, was), (_, is_now) in zip(made.devices, now, strict=True):
        assert was == is_now or name.startswith("cpu/"), f"{name} has changed"


def description(choices: Choices) -> str:
    """A vmdesc is read or refused."""
    parts = streams.devices(choices, tuple(host.registers for host in hosts()))
    described = {"page_size": b.PAGE, "devices": [device.described() for device in parts]}
    try:
        parse_vmdesc(streams.lie(choices, described).encode(errors="replace"))
    except FormatError as error:
        return type(error).__name__
    return "whole"


def return_path(choices: Choices) -> str:
    """It is read or called unreadable, and holds at most a message."""
    said = b""
    for _ in range(choices.below(6)):
        kind, length = choices.below(9), choices.pick((4, 0, 12, 16, 600, choices.below(1 << 16)))
        said += kind.to_bytes(2, "big") + length.to_bytes(2, "big") + choices.bytes(min(length, 700))
    reader = ReturnPathReader()
    try:
        for piece in streams.pieces(choices, said):
            reader.feed(piece)
            assert len(reader._buffer) <= 1024, "holds more than a message"
    except FormatError as error:
        return type(error).__name__
    return "whole"


def channel(choices: Choices) -> str:
    """What a connection says first is always something."""
    first = choices.pick((b.MAGIC, b.multifd_init(choices.bytes(16)), b.RECV_BITMAP, b"")) + choices.bytes(
        choices.below(80)
    )
    first = streams.broken(choices, first) if choices.sometimes(2) else first
    kind = classify(first)
    if len(first) < MULTIFD_INIT_BYTES:
        return kind.value
    try:
        MultifdInit.parse(first[:64])
    except FormatError as error:
        return f"{kind.value}, {type(error).__name__}"
    return kind.value


def save_image(choices: Choices) -> str:
    """The head of a libvirt save image is read or refused."""
    size = choices.pick((100, 0, 1 << 16))
    order = choices.pick(("little", "big"))
    numbers = (2, size, 1, choices.below(9), choices.near(size // 2), *([0] * 14))
    head = choices.pick((b"LibvirtQemudSave", b"LibvirtQemudPart")) + b"".join(n.to_bytes(4, order) for n in numbers)
    data = head + b"<domain/>\0" + bytes(size)
    try:
        image = parse_header(streams.broken(choices, data) if choices.below(4) else data)
        image.xml_of(data)
    except FormatError as error:
        return type(error).__name__
    return "whole"


def config(choices: Choices) -> str:
    """A configuration file is one, or the error says where it is not."""
    try:
        config_file.parse(documents.toml_like(choices, _CONFIG), Path("c.toml"))
    except ConfigError:
        return "refused"
    return "whole"


def profile(choices: Choices) -> str:
    """A profile is one, or the error says where it is not."""
    try:
        Profile.parse(documents.toml_like(choices, _PROFILE), "p.toml")
    except ProfileError:
        return "refused"
    return "whole"


@cache
def _small_host() -> object:
    document = msgspec.json.decode(recorded.host_json("7.3", "neoverse-n1"))
    return {key: value[:3] if isinstance(value, list) else value for key, value in document.items()}


def host(choices: Choices) -> str:
    """A host description is one, or the error says where it is not."""
    try:
        HostDescription.parse(documents.json_like(choices, _small_host()), "h.json")
    except HostError:
        return "refused"
    return "whole"


def control(choices: Choices) -> str:
    """A request is one, or it is answered with an error."""
    request = {"version": 1, "command": "abort", "arguments": {"id": "5f0c6a2b91d4", "route": {"name": "x"}}}
    try:
        read_request(documents.json_like(choices, request) + b"\n")
    except ControlError:
        return "refused"
    return "whole"


def qemu_log(choices: Choices) -> str:
    """Any text can be a log."""
    said = "qemu-system-aarch64: error while loading state for instance 0x0 of device 'cpu': 0x603000000013c103\n"
    text = documents.toml_like(choices, said * 3).decode(errors="replace")
    return f"{len(list(parse_log(text)))} lines, {len(registers_in(text))} registers"


TARGETS: Final[dict[str, Target]] = {
    "parser": parser,
    "rewriter": rewriter,
    "vmdesc": description,
    "return-path": return_path,
    "channel": channel,
    "save-image": save_image,
    "config": config,
    "profile": profile,
    "host": host,
    "control": control,
    "qemu-log": qemu_log,
}

# How often a campaign takes each: whole streams are what an attacker sends most easily, and what costs most.
SHARES: Final = {"parser": 40, "rewriter": 30}
