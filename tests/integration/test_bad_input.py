"""Bad input through the command: one clear sentence, the right exit status, and no half-written output."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from formats.arm64.register_id import id_of
from tests import builders as b
from tests import recorded

PROXYD = Path(sys.executable).with_name("proxyd")
TCR2 = id_of("TCR2_EL1")

PROFILE = '[[rule]]\nkind = "remove"\nregister = "TCR2_EL1"\nreason = "the guest has no FEAT_TCR2"\n'
HEAD = b.MAGIC + b.configuration()


def with_cpu(payload: bytes) -> bytes:
    """A stream whose vCPU has another payload than the vmdesc was made for."""
    parts = b.devices()
    good = b.stream(parts=parts)
    cpu = parts[2]
    return good.replace(cpu.payload, payload)


CPU = b.cpu(b.SOME_REGISTERS)
DISORDERED = with_cpu(CPU.payload[:572] + struct.pack(">3Q", *reversed(b.SOME_REGISTERS)) + CPU.payload[572 + 24 :])
LYING = with_cpu(CPU.payload[:568] + b.be32(2) + CPU.payload[572:])
SECTIONS = b"".join(device.wire(3 + i) for i, device in enumerate(b.devices()))
GARBAGE = HEAD + b.ram() + SECTIONS + b"\x00\x06" + b.be32(8) + b"{garbage"
MANY = HEAD + b.ram() + b.tail([b.Device(b"dev", b"x", instance=n) for n in range(4097)])

# (what it is, the bytes, exit status, what the sentence must say)
CASES = [
    ("not a migration stream", b"GET / HTTP/1.1\r\n\r\n", 1, "not a migration stream: b'QEVM' expected, found b'GET '"),
    ("wrong version", b"QEVM" + b.be32(2) + HEAD[8:], 1, "stream version 3 expected, found 2"),
    ("truncated in RAM", b.stream()[:5000], 1, "the stream ends inside section 'ram'"),
    ("truncated in device state", b.stream()[:-40], 1, "without a vmdesc (cut off, or"),
    ("empty", b"", 1, "the stream ends inside the file header"),
    (
        "unknown section",
        HEAD + b.start(2, b"", b"spapr/htab", 1),
        1,
        "iterable section 'spapr/htab'/0 version 1: its end cannot be",
    ),
    ("list out of order", DISORDERED, 1, "cpu/0: cpreg list: ids in ascending order expected, found TCR2_EL1"),
    ("length field lying", LYING, 1, "cpreg_vmstate_array_len says 2, the vmdesc gives cpreg_vmstate_indexes 3"),
    ("vmdesc missing", HEAD + b.ram() + SECTIONS + b"\x00", 1, "the source runs with suppress-vmdesc=on"),
    ("garbage vmdesc", GARBAGE, 1, "without a vmdesc that fits them: vmdesc: expected QEMU's JSON description"),
    ("sections beyond limits", MANY, 1, "at most 4096 device sections expected (limit sections), found 4097"),
    ("COLO", HEAD + b"\x08\x00\x08\x00\x00", 1, "COLO is not supported: the stream would never end"),
    (
        "postcopy package",
        b.MAGIC + b.configuration(b"virt-10.2") + b.OPEN_RETURN_PATH + b.ram() + b.packaged(b"nonsense"),
        1,
        "package: 0800040000 (LISTEN) expected, found 6e6f6e7365",
    ),
    ("bytes behind the end", b.stream() + b"more", 1, "end of the stream expected, found 4 bytes more"),
]


def proxyd(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(PROXYD), *map(str, arguments)], input=stdin, capture_output=True, timeout=60)


def sentence(result: subprocess.CompletedProcess[bytes]) -> str:
    (line,) = result.stderr.decode().splitlines()
    return line


@pytest.mark.parametrize(("what", "wire", "status", "says"), CASES, ids=[case[0] for case in CASES])
def test_a_bad_stream(what: str, wire: bytes, status: int, says: str, tmp_path: Path) -> None:
    stream, profile, out = tmp_path / "in.bin", tmp_path / "p.toml", tmp_path / "out.bin"
    stream.write_bytes(wire)
    profile.write_text(PROFILE)
    result = proxyd("rewrite", "--profile", profile, stream, out)
    assert says in sentence(result), what
    assert str(stream) in sentence(result)
    assert result.returncode == status
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.bin", "p.toml"]


def test_a_refusal_names_the_register_and_writes_nothing(tmp_path: Path) -> None:
    stream, host, out = tmp_path / "in.bin", tmp_path / "host.json", tmp_path / "out.bin"
    stream.write_bytes(recorded.load("7.3-10.0.13-neoverse-n1-plain-smp1"))
    host.write_bytes(recorded.host_json("6.12", "neoverse-n1"))
    result = proxyd("rewrite", "--destination", host, stream, out)
    assert result.returncode == 3
    assert "FW_PSCI_VERSION (0x6030000000140000) = 0x10003, 0x10001 at the destination: lossy" in result.stderr.decode()
    assert not out.exists()


def test_a_profile_with_an_unknown_register(tmp_path: Path) -> None:
    profile = tmp_path / "p.toml"
    profile.write_text(PROFILE.replace("TCR2", "TCR3"))
    stream = tmp_path / "in.bin"
    stream.write_bytes(b.stream())
    result = proxyd("plan", "--profile", profile, stream)
    assert result.returncode == 1
    assert "rule[0].register: name of a register or its id in hex expected, found 'TCR3_EL1'" in sentence(result)


CONFIG = '[[route]]\nname = "a"\nlisten = "127.0.0.1:0"\ndestination = "127.0.0.1:4444"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CONFIG.replace("listen", "lisen"), "lisen"),
        (CONFIG + 'return_path = "yes"\n', "return_path"),
        (CONFIG.replace("127.0.0.1:4444", "nowhere"), "destination"),
        (CONFIG + 'profile = "missing.toml"\n', "missing.toml"),
        (CONFIG + 'allow = ["TCR3_EL1"]\n', "TCR3_EL1"),
        ("[[route", "TOML"),
    ],
)
@pytest.mark.parametrize("verb", [("check-config",), ("serve", "--config")])
def test_a_config_with_a_typo(text: str, says: str, verb: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "proxyd.toml"
    config.write_text(text)
    result = proxyd(*verb, config)
    assert result.returncode == 1
    assert says in sentence(result)
    assert str(config) in sentence(result)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for arguments in (("inspect", tmp_path / "no.bin"), ("check-config", tmp_path / "no.toml")):
        result = proxyd(*arguments)
        assert result.returncode == 4
        assert "no such file or directory" in sentence(result).lower()
