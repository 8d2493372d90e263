"""The demo's story, told."""

from __future__ import annotations

import pytest

from formats.arm64.cpreg_list import CpregList
from proxyd.cli.demo_view import document, qemu_document, show, show_qemu
from proxyd.cli.terminal import console
from proxyd.demo import destination, source
from proxyd.demo.play import Attempt, Story
from proxyd.demo.qemu import QemuAttempt, QemuStory
from proxyd.demo.recording import Recording
from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.plan import Action, Change, Outcome, Plan, VcpuRegisters
from proxyd.rewrite.report import RewriteReport
from proxyd.rewrite.verdict import Verdict

TCR2 = 0x603000000013C103
BEFORE = (VcpuRegisters(0, CpregList({TCR2: 0, 7: 1})),)
REMOVED = Change(0, Action.REMOVE, TCR2, None, 0, None, Verdict.PROVEN, "no such feature", "knowledge")
REPORT = RewriteReport(
    "virt-10.0",
    Plan(Outcome.LOADS_REWRITTEN, (REMOVED,), (), (), BEFORE, (VcpuRegisters(0, CpregList({7: 1})),)),
)
FAILED = Attempt(source.Result("failed", "Sibling indicated error 1"), destination.Result(("qemu: no\x1b[2J",)))
LOADED = Attempt(source.Result("completed"), destination.Result())
STORY = Story(
    Recording(b"", "6.12", "10.0", "neoverse-n1", 1),
    HostDescription("h", CpregList({7: 1}), kernel="7.3"),
    FAILED,
    LOADED,
    REPORT,
    0.25,
)


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_a_story_that_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    show(console(), STORY)
    before, table, after = capsys.readouterr().out.partition("\nChanges\n")
    assert before == (
        "The guest\n"
        "source       Linux 6.12, QEMU 10.0, KVM: a stream recorded from a real guest\n"
        "guest        neoverse-n1, 1 vCPU with 2 registers, return path on\n"
        "destination  QEMU 10.0's loading rules, with the 1 registers of a real Linux 7.3\n"
        "\n"
        "1. Directly\n"
        "destination's QEMU says:\n"
        "  qemu: no\\x1b[2J\n"
        "source       failed: Sibling indicated error 1; the guest goes on there\n"
        "\n"
        "2. Through proxyd, on loopback\n"
        "destination  loaded, SHUT(0)\n"
        "source       completed\n"
    )
    assert table
    assert "TCR2_EL1   0x603000000013c103   0      removed (was 0x0)   proven    no such feature\n" in after
    assert after.endswith("\nwithout proxyd it fails, through proxyd it loads: 1 change (1 proven), 1 vCPU, 0.2 s\n")


def test_a_story_that_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    show(console(), Story(STORY.recording, STORY.destination_host, FAILED, FAILED, None, 1.0))
    shown = capsys.readouterr().out
    assert "guest        neoverse-n1, 1 vCPU with 0 registers" in shown
    assert shown.endswith(
        "2. Through proxyd, on loopback\n"
        "  qemu: no\\x1b[2J\n"
        "destination  not loaded\n"
        "source       failed\n"
        "\n"
        "it did not load: nothing was rewritten, 1.0 s\n"
    )


def test_for_scripts() -> None:
    told = document(STORY)
    report = told.pop("report")
    assert report == REPORT.to_json_dict()
    assert told == {
        "source_kernel": "6.12",
        "destination_kernel": "7.3",
        "direct": {
            "source_status": "failed",
            "source_error": "Sibling indicated error 1",
            "destination_stderr": ["qemu: no\x1b[2J"],
        },
        "proxied": {"source_status": "completed", "source_error": None, "destination_stderr": []},
        "seconds": 0.25,
    }
    assert document(Story(STORY.recording, STORY.destination_host, FAILED, FAILED, None, 1.0))["report"] is None


DIRECT = QemuAttempt("failed", None, ("qemu: no",), ("start", "1 ok", "2 ok"), ())
PROXIED = QemuAttempt("completed", None, (), ("start", "1 ok", "2 ok", "3 ok"), ("4 id:ID_AA64DFR0_EL1", "5 id:X"))


def test_with_real_qemus(capsys: pytest.CaptureFixture[str]) -> None:
    show_qemu(console(), QemuStory("QEMU 10.0", DIRECT, PROXIED, REPORT, 1.0))
    lines = capsys.readouterr().out.splitlines()
    assert "QEMU         QEMU 10.0, TCG, two processes" in lines
    assert "  qemu: no" in lines
    assert "source       failed: no error; the guest goes on there" in lines
    assert "guest        at the source: 1 ok ... 2 ok" in lines
    assert "destination  loaded, the guest runs" in lines
    assert "guest        at the source: 1 ok ... 3 ok" in lines
    assert lines[-3] == (
        "             at the destination: 4 id:ID_AA64DFR0_EL1 ... 5 id:X "
        "(id: what the guest reads differently now, as the table says)"
    )


def test_a_guest_that_said_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_qemu(console(), QemuStory("QEMU 10.0", DIRECT, DIRECT, None, 1.0))
    assert "             at the destination: nothing\n" in capsys.readouterr().out


def test_real_qemus_for_scripts() -> None:
    told = qemu_document(QemuStory("QEMU 10.0", DIRECT, PROXIED, None, 1.23456))
    assert told == {
        "qemu": "QEMU 10.0",
        "direct": {
            "source_status": "failed",
            "source_error": None,
            "destination_stderr": ["qemu: no"],
            "guest_at_source": ["start", "1 ok", "2 ok"],
            "guest_at_destination": [],
        },
        "proxied": {
            "source_status": "completed",
            "source_error": None,
            "destination_stderr": [],
            "guest_at_source": ["start", "1 ok", "2 ok", "3 ok"],
            "guest_at_destination": ["4 id:ID_AA64DFR0_EL1", "5 id:X"],
        },
        "seconds": 1.235,
        "report": None,
    }
