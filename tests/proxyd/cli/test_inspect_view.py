"""What ``proxyd inspect`` shows."""

from __future__ import annotations

from pathlib import Path

from tests import builders as b
from tests import images
from tests.proxyd.cli.command import FROM_7_3, RETURN_PATH, Run


def place(stream: Path, device: int) -> int:
    """Offset of a section of the small stream: its n-th device."""
    return stream.read_bytes().index(b.devices(2)[device].wire(3 + device))


def test_a_stream_for_people(run: Run, stream: Path) -> None:
    size, at = stream.stat().st_size, [place(stream, device) for device in range(6)]
    assert run("inspect", stream).out == (
        f"stream        {stream}: {size} bytes\n"
        "machine       virt-10.0\n"
        "page size     4096\n"
        "capabilities  none\n"
        "return path   yes\n"
        "commands      OPEN_RETURN_PATH, PING 0x1\n"
        f"device state  {size - at[0]} bytes in 6 sections, with their description (vmdesc)\n"
        "registers     3 each in the list of 2 vCPUs: 0-1\n"
        f"""
Iterable sections
Section   Version   START   PART   END   Payload
─────────────────────────────────────────────────
ram/0     4         1       1      1     12.1 KiB

RAM blocks
Block           Size       Pages   Zero pages   Encoded pages
─────────────────────────────────────────────────────────────
mach-virt.ram   16.0 KiB   3       2            0

Device sections
Section        Version   Offset   Bytes   Subsections
────────────────────────────────────────────────────────────
arm_gicv3/0    1         {at[0]:#x}   200
cpu_common/0   1         {at[1]:#x}   8
cpu/0          22        {at[2]:#x}   713     cpu/irq-line-state
cpu_common/1   1         {at[3]:#x}   8
cpu/1          22        {at[4]:#x}   713     cpu/irq-line-state
slirp/0        4         {at[5]:#x}   9
"""
    )


def test_the_fields_of_a_section(run: Run, stream: Path) -> None:
    header = 1 + 4 + 1 + len("cpu_common") + 4 + 4
    first, second = place(stream, 1) + header, place(stream, 3) + header
    assert (
        run("inspect", stream, "--section", "cpu_common").out
        == f"""
cpu_common/0, version 1, 8 bytes
Field     Type     Offset   Bytes   Value
──────────────────────────────────────────────
halted    uint32   {first:#x}   4       0x00000000
request   uint32   {first + 4:#x}   4       0x00000002

cpu_common/1, version 1, 8 bytes
Field     Type     Offset   Bytes   Value
──────────────────────────────────────────────
halted    uint32   {second:#x}   4       0x00000000
request   uint32   {second + 4:#x}   4       0x00000002
"""
    )


def test_arrays_and_long_fields(run: Run, stream: Path) -> None:
    shown = run("inspect", stream, "--section", "cpu").out
    assert " 8 x 32\n" in shown, "256 bytes are not shown"
    assert shown.count("cpreg_vmstate_indexes") == 2


def test_registers_identification_first_and_field_by_field(run: Run) -> None:
    shown = run("inspect", FROM_7_3, "--section", "globalstate", "--registers").out
    identity, written = shown.split("\nRegisters that the guest writes\n")
    assert "\nIdentification and firmware\n" in identity
    assert "\nMIDR_EL1 " in identity
    assert "\nFW_PSCI_VERSION " in identity
    assert "\nTPIDR_EL1 " in written
    assert "ID_AA64" not in written
    (pfr0,) = (line for line in identity.splitlines() if line.startswith("ID_AA64PFR0_EL1"))
    assert "0x603000000013c020" in pfr0
    assert "GIC 1" in pfr0
    assert " 0," not in pfr0


def test_a_stream_without_vcpus_has_no_register_tables(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bare"
    path.write_bytes(b.stream(parts=[b.Device(b"timer", b"x")]))
    shown = run("inspect", path, "--registers").out
    assert "Registers" not in shown
    assert "\nregisters" not in shown


def test_an_unusual_prologue(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "unusual"
    configuration = b.configuration(b"pc\x1b-q35", None, [b"multifd"], bytes(range(16)))
    path.write_bytes(b.stream(prologue=b.MAGIC + configuration))
    shown = run("inspect", path).out
    assert "machine       pc\\x1b-q35\n" in shown
    assert "page size     4096 (assumed: the stream does not say)\n" in shown
    assert "capabilities  multifd\n" in shown
    assert "uuid          000102030405060708090a0b0c0d0e0f\n" in shown
    assert "return path   no\n" in shown
    assert "commands      none\n" in shown
    document = run("inspect", path, "--json").document
    assert document["uuid"] == bytes(range(16)).hex()
    assert document["capabilities"] == ["multifd"]
    assert (document["return_path"], document["commands"]) == (False, [])


def test_a_stream_that_ends_early(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "early"
    path.write_bytes(b.MAGIC + b"\x55")
    ran = run("inspect", path)
    assert ran.out.splitlines() == [
        f"stream        {path}: 8 bytes",
        "return path   no",
        "commands      none",
    ]
    document = run("inspect", path, "--json").document
    assert (document["stream_version"], document["machine"], document["page_size"]) == (3, None, None)


def test_a_stream_for_scripts(run: Run, stream: Path) -> None:
    document = run("inspect", stream, "--json").document
    prologue = len(b.MAGIC + b.configuration())
    sections = document.pop("device_sections")
    assert document == {
        "version": 1,
        "command": "inspect",
        "file": str(stream),
        "compression": None,
        "save_image": None,
        "bytes": stream.stat().st_size,
        "complete": True,
        "error": None,
        "stream_version": 3,
        "machine": "virt-10.0",
        "page_size": 4096,
        "capabilities": [],
        "uuid": None,
        "return_path": True,
        "commands": [
            {"name": "OPEN_RETURN_PATH", "data": "", "offset": prologue},
            {"name": "PING", "data": "00000001", "offset": prologue + 5},
        ],
        "iterable_sections": [
            {
                "idstr": "ram",
                "instance_id": 0,
                "version_id": 4,
                "section_id": 2,
                "starts": 1,
                "parts": 1,
                "ends": 1,
                "payload_bytes": 12412,
            }
        ],
        "ram_blocks": [{"name": "mach-virt.ram", "size": 16384, "pages": 3, "zero_pages": 2, "encoded_pages": 0}],
        "vcpus": [{"vcpu": 0, "register_count": 3}, {"vcpu": 1, "register_count": 3}],
    }
    assert [section["idstr"] for section in sections] == [
        "arm_gicv3", "cpu_common", "cpu", "cpu_common", "cpu", "slirp",
    ]  # fmt: skip
    assert sections[4] == {
        "idstr": "cpu",
        "instance_id": 1,
        "version_id": 22,
        "section_id": 7,
        "offset": place(stream, 4),
        "payload_bytes": 713,
        "subsections": ["cpu/irq-line-state"],
    }


def test_registers_and_fields_for_scripts(run: Run, stream: Path) -> None:
    document = run("inspect", stream, "--json", "--registers", "--section", "slirp").document
    (section,) = document["device_sections"]
    assert section["fields"] == [
        {
            "name": "data",
            "type": "buffer",
            "offset": place(stream, 5) + 19,
            "size": 9,
            "array_len": None,
            "data": b"old style".hex(),
        }
    ]
    assert document["vcpus"][1]["registers"][1:] == [
        {
            "name": "TCR2_EL1",
            "id": "0x603000000013c103",
            "value": "0x0",
            "fields": document["vcpus"][1]["registers"][1]["fields"],
        },
        {"name": "TIMER_CNT", "id": "0x603000000013df1a", "value": "0x200000000"},
    ]


def test_packed_files_say_so(run: Run) -> None:
    assert "unpacked from xz: 416657 bytes\n" in run("inspect", RETURN_PATH).out
    assert run("inspect", RETURN_PATH, "--json").document["compression"] == "xz"


def test_a_save_image_says_so(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "guest.save"
    path.write_bytes(images.mapped_ram(images.image_head(6)))
    assert "save image    libvirt's, format sparse, guest little running\n" in run("inspect", path).out
    assert run("inspect", path, "--json").document["save_image"] == {
        "format": "sparse",
        "domain": "little",
        "was_running": True,
        "stream_offset": len(images.image_head(6)),
    }
