"""What is collected from a stream, whole and broken off."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.errors import SchemaMismatch, TruncatedStream
from formats.iterative.ram_census import RamBlock
from formats.savevm import MigCommand
from proxyd.cli.exit_codes import InputError
from proxyd.cli.stream_facts import IterableSection, StreamFacts, collect, registers_in
from proxyd.cli.stream_file import open_stream
from tests import builders as b
from tests import images, recorded

RETURN_PATH = [name for name in recorded.names() if "returnpath" in name]
assert RETURN_PATH


def facts_of(tmp_path: Path, wire: bytes) -> StreamFacts:
    path = tmp_path / "stream"
    path.write_bytes(wire)
    with open_stream(str(path)) as file:
        return collect(file)


def test_everything_that_a_whole_stream_tells(tmp_path: Path) -> None:
    wire = b.stream(parts=b.devices(2))
    facts = facts_of(tmp_path, wire)
    assert facts.error is None
    assert facts.total_bytes == len(wire)
    assert (facts.machine, facts.page_size) == ("virt-10.0", 4096)
    assert [one.command for one in facts.commands] == [MigCommand.OPEN_RETURN_PATH, MigCommand.PING]
    assert facts.return_path
    ram = b.ram()
    assert list(facts.iterables.values()) == [
        IterableSection("ram", 0, 4, 2, starts=1, parts=1, ends=1, payload_bytes=len(ram) - 17 - 2 * 5 - 3 * 5)
    ]
    assert facts.blocks == (RamBlock("mach-virt.ram", 4 * b.PAGE, pages=3, zero_pages=2),)
    assert [vcpu.vcpu for vcpu in facts.vcpus] == [0, 1]
    assert dict(facts.vcpus[1].registers) == b.SOME_REGISTERS
    assert [section.name for section in facts.sections_named("cpu")] == ["cpu/0", "cpu/1"]
    assert facts.sections_named("nothing") == ()
    assert facts.sections_named(None) == ()


def test_what_was_read_before_an_error_is_kept(tmp_path: Path) -> None:
    wire = b.stream()
    facts = facts_of(tmp_path, wire[: wire.index(b.SOME_REGISTERS[0x603000000013C000].to_bytes(8, "big"))])
    assert isinstance(facts.error, TruncatedStream)
    assert facts.machine == "virt-10.0"
    assert facts.blocks
    assert facts.tail is None
    assert facts.sections_named("cpu") == ()
    assert facts.vcpus == ()


def test_garbage_tells_nothing(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, b"not a stream at all")
    assert isinstance(facts.error, SchemaMismatch)
    assert facts == StreamFacts(facts.name, error=facts.error, total_bytes=facts.total_bytes)
    assert (facts.machine, facts.return_path) == (None, False)


def test_memory_that_is_no_ram_is_not_counted_as_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from formats.iterative import WALKERS, ram

    monkeypatch.setitem(WALKERS, ("other", 4), ram.walk)
    facts = facts_of(tmp_path, b.stream(memory=b.start(9, b.EOS, b"other") + b.end(9, b.EOS) + b.ram()))
    assert facts.error is None
    assert [one.payload_bytes for one in facts.iterables.values() if one.idstr == "other"] == [16]
    assert [block.name for block in facts.blocks] == ["mach-virt.ram"]


@pytest.mark.parametrize("name", RETURN_PATH)
def test_a_recorded_stream_is_read_to_its_end(name: str) -> None:
    with open_stream(str(recorded.STREAMS / f"{name}.bin.xz")) as file:
        facts = collect(file)
    assert facts.error is None
    assert facts.total_bytes == len(recorded.load(name))
    assert facts.vcpus


def registers(tmp_path: Path, wire: bytes) -> tuple[str | None, int]:
    path = tmp_path / "stream"
    path.write_bytes(wire)
    with open_stream(str(path)) as file:
        machine, vcpus = registers_in(file)
    return machine, len(vcpus)


def test_registers_alone(tmp_path: Path) -> None:
    assert registers(tmp_path, b.stream(parts=b.devices(3))) == ("virt-10.0", 3)


def test_registers_of_a_broken_stream(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stream: at 0x3: the stream ends inside the file header$"):
        registers(tmp_path, b"QEV")


def test_a_machine_without_a_register_list(tmp_path: Path) -> None:
    expected = r"stream: an arm vCPU with a register list expected, found none \(machine virt-10.0\)$"
    with pytest.raises(InputError, match=expected):
        registers(tmp_path, b.stream(parts=[b.Device(b"cpu", b"x86", version=12)]))


def test_a_mapped_ram_file_has_its_blocks_and_their_pages(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(images.mapped_ram())
    with open_stream(str(path)) as file:
        facts = collect(file)
    assert facts.error is None
    assert [(one.name, one.size, one.pages, one.zero_pages) for one in facts.blocks] == [
        ("mach-virt.ram", 2 * images.MIB, 2, 510),
        ("/rom@etc/acpi/rsdp", b.PAGE, 1, 0),
    ]
    assert (facts.total_bytes, len(facts.vcpus)) == (path.stat().st_size, 2)


@pytest.mark.parametrize(("xml", "domain"), [(images.XML, "little"), (b"<domain/>" + bytes(len(images.XML) - 9), None)])
def test_a_save_image_says_whose_it_is(tmp_path: Path, xml: bytes, domain: str | None) -> None:
    path = tmp_path / "guest.save"
    path.write_bytes(images.save_image("zstd", b.stream()).replace(images.XML, xml))
    with open_stream(str(path)) as file:
        facts = collect(file)
    assert facts.error is None
    assert facts.image is not None
    assert (facts.domain, facts.image.was_running, facts.compression) == (domain, True, "zstd")
