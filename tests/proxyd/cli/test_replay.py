"""``proxyd replay``: the same again, or where it is not; and what would be elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from proxyd.cli.main import main
from proxyd.rewrite.knowledge import builtin_digest
from proxyd.rewrite.recording import Recorded
from proxyd.rewrite.rewriter import RewriteRefused, StreamRewriter
from tests import builders as b
from tests.proxyd.rewrite.test_recording import ADVISED, REFUSE, REMOVE, a_policy, recorded


@pytest.fixture
def released(tmp_path: Path) -> Path:
    rewriter = StreamRewriter(a_policy())
    rewriter.feed(b.stream())
    return write(tmp_path, recorded(rewriter))


def write(directory: Path, one: Recorded, **facts: object) -> Path:
    changed = msgspec.structs.replace(one.facts, knowledge=builtin_digest(), **facts)
    path = directory / "2026-abc.proxyd-recording"
    path.write_bytes(Recorded(changed, one.before, one.after).to_bytes())
    return path


def test_the_same_bytes(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(released)]) == 0
    said = capsys.readouterr().out
    assert "migration abc of route lab from 192.0.2.1:1" in said
    assert "TCR2_EL1" in said
    assert said.endswith(" bytes\n")


def test_as_json(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(released), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["same"], document["difference"], document["error"]) == (1, True, None, None)
    assert document["report"]["changes"][0]["name"] == "TCR2_EL1"


def test_other_bytes_are_named(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Recorded.parse(released.read_bytes())
    at = len(one.after) - 5
    write(released.parent, Recorded(one.facts, one.before, one.after[:at] + b"\0" + one.after[at + 1 :]))
    assert main(["replay", str(released)]) == 3
    assert f"byte {at:#x} of what was released differs" in capsys.readouterr().err


def test_a_refusal_then_and_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewriter = StreamRewriter(a_policy(REFUSE))
    with pytest.raises(RewriteRefused):
        rewriter.feed(b.stream())
    path = write(tmp_path, recorded(rewriter, REFUSE), outcome="refused", reason="because")
    assert main(["replay", str(path)]) == 0
    said = capsys.readouterr().out
    assert "then: refused: because" in said
    assert "now: vcpu 0: TCR2_EL1" in said
    # A question: what if the route allowed it?
    assert main(["replay", str(path), "--allow", "TCR2_EL1"]) == 0
    capsys.readouterr()
    # Rules that would let it pass now, and did not then.
    path = write(tmp_path, recorded(rewriter, REMOVE), outcome="refused", reason="because")
    assert main(["replay", str(path)]) == 3
    assert "nothing was released then (refused: because), and it would be now" in capsys.readouterr().err


def test_what_the_firewall_refused_is_replayed_without_it(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rules are the operator's, and not in a recording: that they refused it is no difference."""
    one = Recorded.parse(released.read_bytes())
    write(released.parent, Recorded(one.facts, one.before, b""), outcome="refused", reason="firewall: x", denied=True)
    assert main(["replay", str(released)]) == 0
    assert "the route's firewall refused it; its rules are not in a recording" in capsys.readouterr().out


def test_released_then_and_refused_now(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Recorded.parse(released.read_bytes())
    write(released.parent, one, profile=REFUSE)
    assert main(["replay", str(released)]) == 3
    assert "it was released then, and is refused now: vcpu 0: TCR2_EL1" in capsys.readouterr().err


def test_a_package_that_was_forced_is_no_difference(tmp_path: Path) -> None:
    rewriter = StreamRewriter(a_policy(REFUSE))
    wire = ADVISED.replace(b"virt-10.2", b"virt-8.00") + b.ram()
    rewriter.feed(wire + b.packaged(b.package(b.devices(), loaded_ping=False)))
    assert main(["replay", str(write(tmp_path, recorded(rewriter, REFUSE)))]) == 0


def test_somewhere_else(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.toml").write_text(REFUSE)
    assert main(["replay", str(released), "--profile", str(tmp_path / "p.toml")]) == 3
    assert "TCR2_EL1" in capsys.readouterr().err
    (tmp_path / "p.toml").write_text(REMOVE)
    assert main(["replay", str(released), "--profile", str(tmp_path / "p.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is None


def test_another_knowledge_base_is_told(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Recorded.parse(released.read_bytes())
    released.write_bytes(one.to_bytes().replace(builtin_digest().encode(), b"0" * 64))
    assert main(["replay", str(released)]) == 0
    assert "the knowledge base is another one than then" in capsys.readouterr().out


def test_a_directory(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(released.parent)]) == 0
    assert capsys.readouterr().out == "2026-01-01T00:00:00.000Z  abc  lab  released  2026-abc.proxyd-recording\n"
    assert main(["replay", str(released.parent), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["recordings"]
    assert (entry["migration"], entry["file"]) == ("abc", str(released))


def test_what_cannot_be_read(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "nothing")]) == 4
    released.write_bytes(released.read_bytes()[:-1])
    assert main(["replay", str(released)]) == 1
    assert "bytes expected, found" in capsys.readouterr().err


def test_a_host_that_this_version_cannot_read(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Recorded.parse(released.read_bytes())
    write(released.parent, one, host={"version": 99})
    assert main(["replay", str(released)]) == 1
    assert "the recording's host" in capsys.readouterr().err
