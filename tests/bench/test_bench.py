"""The bench itself runs, on streams too small to say anything about speed. Only the bound on memory is a promise."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest

from formats.parser import StreamParser
from tests.bench import __main__ as bench
from tests.bench import load, machine, memory, page, proxies, relay, tail, tls, walk
from tests.bench.recorded_tail import device_part
from tests.certificates import make_directory

MIB = 1 << 20


@pytest.mark.parametrize("vcpus", [1, 2, 3, 4, 16, 64])
def test_the_device_part_has_as_many_vcpus_as_asked_for(vcpus: int) -> None:
    parser = StreamParser()
    events = [event for buffer in load.stream(MIB, device_part(vcpus).bytes) for event in parser.feed(buffer)]
    assert parser.complete
    cpus = [section.name for section in events[-1].sections if section.name.startswith("cpu/")]
    assert len(cpus) == vcpus


def test_pages_are_walked() -> None:
    figures = walk.run(rounds=1, guest_bytes=64 * MIB)
    assert list(figures) == list(walk.KINDS)
    assert all(kind["ns_per_page"] > 0 for kind in figures.values())


def test_a_stream_is_relayed_and_answered() -> None:
    stream = load.stream(20 * MIB)
    with tempfile.TemporaryDirectory() as scratch, load.loopback_listener() as listener:
        speed, cpu = relay.one_pass(proxies.proxyd(), Path(scratch), listener, stream)
    assert speed > 0
    assert cpu > 0


def test_tls_is_relayed_and_answered(tmp_path: Path) -> None:
    pki = make_directory(tmp_path / "pki")
    with load.loopback_listener() as listener:
        for source, destination in tls.LEGS.values():
            command = tls.proxyd(pki, source=source, destination=destination)
            stream = load.stream(16 * MIB)
            speed, cpu = tls.one_pass(command, tmp_path, listener, stream, pki, source, destination)
            assert speed > 0
            assert cpu > 0


def test_resident_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SLOW_BYTES", 20_000_000)
    figures = memory.run(200_000_000)
    assert figures["resident_highest"] < 100_000_000
    assert 0 < figures["queued_highest"] < 20_000_000


def test_the_device_part_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "VCPUS", (1,))
    monkeypatch.setattr(tail, "RAM_BYTES", MIB)
    (figures,) = tail.run(rounds=1).values()
    assert figures["last byte to last byte"]["median_ms"] > 0


def test_the_page_shows_every_figure() -> None:
    times = {"median_ms": 1.25, "longest_ms": 2.5}
    whats = ("last byte to last byte", "device part, through proxyd", "device part, no proxy")
    speeds = {"gb_per_s": 1.5, "gb_per_s_to_socat": 1.1, "cpu_s_per_gb": 0.3, "cpu_to_haproxy": 1.2}
    results = {
        "date": "2026-11-23",
        "machine": machine.description(),
        "rounds": 7,
        "gigabytes": 2.0,
        "tls": {"TLS to TLS": {"proxyd": {"gb_per_s": 0.5, "cpu_s_per_gb": 1.16, "cpu_to_haproxy": 1.17}}},
        "walk": {"full pages": {"guest_gb_per_s": 35.0, "ns_per_page": 116.0}},
        "relay": {"no proxy": speeds | {"cpu_s_per_gb": 0.0}, "proxyd": speeds},
        "memory": {
            "stream_bytes": 4_000_000_000,
            "resident_before": 36 * MIB,
            "resident_highest": 40 * MIB,
            "slow_destination_bytes_per_s": 200e6,
            "queued_highest": 3 * MIB,
        },
        "tail": {"64": {"device_part_bytes": 679_000} | dict.fromkeys(whats, times)},
    }
    document = page.document(results)
    assert "| full pages | 35 | 116 |" in document
    assert "| proxyd | 1.50 | 1.10 | 0.30 | 1.20 |" in document
    assert "| no proxy | 1.50 | 1.10 |  |  |" in document
    assert "at most 40 MiB resident" in document
    assert "| 64 | 679 kB | 1.2 ms (2.5) |" in document


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "run", lambda rounds: {"rounds": rounds})
    assert bench.main(["walk", "--rounds", "2", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["version"] == 1
    assert results["walk"] == {"rounds": 2}


def test_a_program_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(rounds: int, size: int) -> None:
        machine.program("no-such-proxy")

    monkeypatch.setattr(relay, "run", missing)
    assert bench.main(["relay"]) == 4
    assert re.search(r"bench: no-such-proxy is needed to compare with", capsys.readouterr().err)


def test_only_all_figures_make_the_page() -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main(["walk", "--write"])
    assert caught.value.code == 2
