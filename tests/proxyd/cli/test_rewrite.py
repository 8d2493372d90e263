"""``proxyd rewrite``: the output is right and whole, or it is not there."""

from __future__ import annotations

import hashlib
import lzma
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from proxyd.rewrite import tail
from tests import builders as b
from tests import recorded
from tests.proxyd.cli.command import FROM_7_3, HOST_7_3, RETURN_PATH, RETURN_PATH_4, Run

REWRITE = [sys.executable, "-m", "proxyd.cli", "rewrite"]
TO_7_3 = ("--destination", str(HOST_7_3))
REMOVED = {"TCR2_EL1", "PIRE0_EL1", "PIR_EL1"}


@pytest.mark.parametrize("source", [RETURN_PATH, RETURN_PATH_4])
def test_the_output_lacks_what_the_destination_lacks_and_nothing_else(run: Run, tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    ran = run("rewrite", *TO_7_3, source, out)
    assert (ran.code, ran.out) == (0, "")
    assert "loads rewritten: 3 changes (3 proven)" in ran.err
    assert ran.err.endswith(f"{out}: {out.stat().st_size} bytes\n")
    difference = run("diff", source, out, "--json").document
    assert {one["name"] for one in difference["only_in_a"]} == REMOVED
    assert (difference["only_in_b"], difference["other_value"]) == ([], [])
    before, after = (run("inspect", one, "--json").document for one in (source, out))
    for same in ("machine", "commands", "iterable_sections", "ram_blocks"):
        assert before[same] == after[same]
    assert [one["idstr"] for one in before["device_sections"]] == [one["idstr"] for one in after["device_sections"]]


def test_what_is_rewritten_again_stays_the_same(run: Run, tmp_path: Path) -> None:
    run("rewrite", *TO_7_3, RETURN_PATH, tmp_path / "once")
    ran = run("rewrite", *TO_7_3, tmp_path / "once", tmp_path / "twice")
    assert ran.code == 0
    assert "loads as it is" in ran.err
    assert (tmp_path / "twice").read_bytes() == (tmp_path / "once").read_bytes()


def test_what_loads_as_it_is_passes_byte_by_byte(run: Run, tmp_path: Path) -> None:
    assert run("rewrite", *TO_7_3, FROM_7_3, tmp_path / "out").code == 0
    assert (tmp_path / "out").read_bytes() == recorded.load(FROM_7_3.name.removesuffix(".bin.xz"))


def test_a_stream_without_a_return_path_is_rewritten_because_nobody_waits(run: Run, tmp_path: Path) -> None:
    ran = run("rewrite", *TO_7_3, recorded.STREAMS / "6.12-10.0.13-neoverse-n1-plain-smp1.bin.xz", tmp_path / "out")
    assert ran.code == 0
    assert "loads rewritten" in ran.err


def test_a_source_that_had_the_capability_postcopy_ram_is_no_danger_in_a_file(
    run: Run, tmp_path: Path, host: Path
) -> None:
    advise = b"\x08\x00\x03\x00\x10" + b.be64(0) + b.be64(b.PAGE)
    (tmp_path / "in").write_bytes(b.stream(prologue=b.MAGIC + b.configuration() + advise))
    ran = run("rewrite", "--destination", host, "--allow", "TCR2_EL1", tmp_path / "in", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert run("inspect", tmp_path / "out", "--json").document["vcpus"][0]["register_count"] == 2


def test_another_architecture_passes_untouched_and_says_so(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "pc"
    source.write_bytes(b.stream(prologue=b.MAGIC + b.configuration(b"pc-q35-9.0", None)) + b"and more")
    ran = run("rewrite", *TO_7_3, source, tmp_path / "out")
    assert ran.code == 0
    assert "passed unchanged: machine 'pc-q35-9.0' is not arm" in ran.err
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_refused_is_3_and_leaves_no_output(run: Run, stream: Path, host: Path, tmp_path: Path) -> None:
    ran = run("rewrite", "--destination", host, stream, tmp_path / "out")
    assert (ran.code, ran.out) == (3, "")
    assert "\nRefused\n" in ran.err
    last = ran.err.splitlines()[-1]
    assert last.startswith(f"proxyd rewrite: {stream}: refused: vcpu 0: TCR2_EL1 (0x603000000013c103) = 0x0")
    assert sorted(os.listdir(tmp_path)) == ["host.json", "small.bin"]


def test_allowed_by_name(run: Run, stream: Path, host: Path, tmp_path: Path) -> None:
    assert run("rewrite", "--destination", host, "--allow", "TCR2_EL1", stream, tmp_path / "out").code == 0
    assert run("inspect", tmp_path / "out", "--json").document["vcpus"][1]["register_count"] == 2


def test_a_profile(run: Run, stream: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('[[rule]]\nkind = "set"\nregister = "TCR2_EL1"\nvalue = "0x5"\nreason = "why not"\n')
    assert run("rewrite", "--profile", profile, stream, tmp_path / "out").code == 0
    (other,) = run("diff", stream, tmp_path / "out", "--json").document["other_value"]
    assert (other["name"], other["vcpus"], other["a"], other["b"]) == ("TCR2_EL1", [0, 1], "0x0", "0x5")


@pytest.mark.parametrize("cut", [3, 100, 8000, -1])
def test_a_truncated_stream_is_1_and_leaves_no_output(run: Run, stream: Path, tmp_path: Path, cut: int) -> None:
    source = tmp_path / "cut"
    source.write_bytes(stream.read_bytes()[:cut])
    ran = run("rewrite", *TO_7_3, source, tmp_path / "out")
    assert ran.code == 1
    assert ran.err.startswith(f"proxyd rewrite: {source}: at 0x")
    assert ran.err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["cut", "small.bin"]


def test_never_in_place(run: Run, stream: Path, host: Path) -> None:
    before = stream.read_bytes()
    ran = run("rewrite", "--destination", host, "--allow", "TCR2_EL1", stream, stream)
    assert (ran.code, ran.err) == (
        2,
        f"proxyd rewrite: {stream} is the input itself (--in-place replaces it)\n",
    )
    assert stream.read_bytes() == before


def test_no_destination_is_2(run: Run, stream: Path, tmp_path: Path) -> None:
    assert run("rewrite", stream, tmp_path / "out").code == 2


def test_the_report_as_json(run: Run, tmp_path: Path) -> None:
    report, out = tmp_path / "report.json", tmp_path / "out"
    ran = run("rewrite", *TO_7_3, "--json", "--report", report, RETURN_PATH, out)
    assert (ran.code, ran.out) == (0, "")
    document = msgspec.json.decode(ran.err)
    assert document == msgspec.json.decode(report.read_bytes())
    changes = document.pop("changes")
    assert {change["name"] for change in changes} == REMOVED
    assert [notice["name"] for notice in document.pop("notices")] == ["PMMIR_EL1", "FW_VENDOR_HYP_BMAP_2"]
    assert document.pop("unaided")["foreseen"] == "unknown"  # nobody said which QEMU is there
    identity = document.pop("identity")
    wire = lzma.decompress(RETURN_PATH.read_bytes())
    same = identity["ram_bytes"]
    assert wire[:same] == out.read_bytes()[:same]
    assert wire[same : same + 1] == b"\4", "it ends where the first device section begins"
    assert identity == {
        "ram_bytes": same,
        "algorithm": "sha256",
        "digest": hashlib.sha256(wire[:same]).hexdigest(),
        "identical": True,
    }
    assert document == {
        "version": 1,
        "command": "rewrite",
        "input": str(RETURN_PATH),
        "output": str(out),
        "container": "stream, xz",
        "result": "rewritten",
        "bytes_in": 416657,
        "bytes_out": out.stat().st_size,
        "passed_unchanged": None,
        "machine": "virt-10.0",
        "outcome": "loads-rewritten",
        "vcpus": [0],
        "refusals": [],
    }


def test_the_report_of_a_refusal(run: Run, stream: Path, host: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ran = run("rewrite", "--destination", host, "--report", report, stream, tmp_path / "out")
    assert ran.code == 3
    document = msgspec.json.decode(report.read_bytes())
    assert (document["outcome"], document["bytes_out"]) == ("refused", None)
    assert [refusal["vcpu"] for refusal in document["refusals"]] == [0, 1]


def test_what_fails_the_self_check_is_a_bug_of_ours_and_no_output(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise tail.SelfCheckFailed("section cpu/0 is not what the plan says")

    monkeypatch.setattr(tail, "_self_check", wrong)
    ran = run("rewrite", *TO_7_3, RETURN_PATH, tmp_path / "out")
    assert ran.code == 70
    assert "internal error, please report: SelfCheckFailed: section cpu/0" in ran.err
    assert os.listdir(tmp_path) == []


def test_from_pipe_to_pipe(tmp_path: Path) -> None:
    with RETURN_PATH.open("rb") as source:
        ran = subprocess.run([*REWRITE, *TO_7_3, "-", "-"], stdin=source, capture_output=True, check=False)
    assert ran.returncode == 0
    with_files = subprocess.run(
        [*REWRITE, *TO_7_3, str(RETURN_PATH), str(tmp_path / "out")], capture_output=True, check=False
    )
    assert with_files.returncode == 0
    assert ran.stdout == (tmp_path / "out").read_bytes()
    assert (tmp_path / "out").stat().st_mode & 0o777 == RETURN_PATH.stat().st_mode & 0o777


def test_of_a_refused_stream_a_pipe_gets_memory_and_no_device_state(host: Path) -> None:
    memory = b.start(2, b.EOS) + b.part(2, b.page(0, block=b"r") + 100 * b.page(0) + b.EOS) + b.end(2, b.EOS)
    wire = b.stream(memory=memory)
    ran = subprocess.run([*REWRITE, "--destination", str(host), "-", "-"], input=wire, capture_output=True, check=False)
    assert ran.returncode == 3
    assert ran.stdout
    # What came in one piece with the device state may stay back with it.
    assert wire[: wire.index(b.devices()[0].wire(3))].startswith(ran.stdout)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_what_was_there(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The input is a pipe that has said half of what it has to say; the signal comes when that is read."""
    out = tmp_path / "out"
    out.write_bytes(b"before")
    os.mkfifo(tmp_path / "in")
    wire = lzma.decompress(RETURN_PATH.read_bytes())
    process = subprocess.Popen([*REWRITE, *TO_7_3, str(tmp_path / "in"), str(out)], stderr=subprocess.PIPE)
    with (tmp_path / "in").open("wb", buffering=0) as pipe:
        # More than a pipe holds: when it is written, the process has opened its output and reads on.
        pipe.write(wire[: 300 << 10])
        assert any(name.endswith(".partial") for name in os.listdir(tmp_path))
        process.send_signal(number)
    # The pipe is closed by now: a signal that comes in the instant before a read begins is heard when the read ends.
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, b"")
    assert out.read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_memory_of_the_guest_is_not_kept(tmp_path: Path) -> None:
    """A stream of 256 MiB passes through a process that may have no more than it needs for its code."""
    reader, writer = os.pipe()
    page = b.page(0, b"\xa5" * b.PAGE)
    head, chunk = b.MAGIC + b.configuration(), page * 1024
    memory = b.start(2, b.mem_size({b"mach-virt.ram": 1 << 28}) + b.EOS)

    def write() -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(head + memory + b"\x02" + b.be32(2) + b.page(0, block=b"mach-virt.ram"))
            pipe.writelines(chunk for _ in range(64))
            pipe.write(b.EOS + b.footer(2) + b.end(2, b.EOS) + b.tail(b.devices()))

    thread = threading.Thread(target=write)
    thread.start()
    program = (
        # VmHWM and not ru_maxrss: the latter begins with what this process had when it forked.
        "import re, sys; from proxyd.cli.main import main; code = main(sys.argv[1:]);"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr); sys.exit(code)"
    )
    with os.fdopen(reader, "rb") as source:
        ran = subprocess.run(
            [sys.executable, "-c", program, "rewrite", *TO_7_3, "--allow", "TCR2_EL1", "-", "/dev/null"],
            stdin=source,
            capture_output=True,
            check=False,
        )
    thread.join()
    *_, peak_kib = ran.stderr.split()
    assert int(peak_kib) < 120 << 10


def test_a_postcopy_package_that_cannot_be_rewritten_is_refused_in_a_file(run: Run, tmp_path: Path) -> None:
    """On a wire it would go on as it came: its source has given the guest up."""
    package = b.packaged(b.package([b.cpu(b.SOME_REGISTERS), b.cpu(b.SOME_REGISTERS)], loaded_ping=False))
    before = b.MAGIC + b.configuration(b"virt-9.2") + b.OPEN_RETURN_PATH + b.POSTCOPY_ADVISE + b.ram()
    (tmp_path / "in.bin").write_bytes(before + package)
    (tmp_path / "p.toml").write_text('[[rule]]\nkind="remove"\nregister="TCR2_EL1"\nreason="r"\n')
    ran = run("rewrite", "--profile", tmp_path / "p.toml", tmp_path / "in.bin", tmp_path / "out.bin")
    assert ran.code == 3
    assert "cpu/0: one section expected, found 2" in ran.err
    assert not (tmp_path / "out.bin").exists()
