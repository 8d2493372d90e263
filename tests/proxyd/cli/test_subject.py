"""A command takes streams and host descriptions alike, and says so when it gets something else."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from proxyd.cli import subject
from proxyd.cli.exit_codes import InputError, UsageError
from proxyd.cli.subject import load_destination, load_host, load_subject, register_ids
from tests import builders as b
from tests import images


def test_a_stream(stream: Path) -> None:
    loaded = load_subject(str(stream))
    assert (loaded.kind, loaded.machine, loaded.host) == ("stream", "virt-10.0", None)
    assert [dict(vcpu.registers) for vcpu in loaded.vcpus] == [b.SOME_REGISTERS] * 2
    assert loaded.described() == "stream, machine virt-10.0, 2 vCPUs of 3 registers"


def test_one_vcpu_is_singular(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b.stream())
    assert load_subject(str(tmp_path / "one")).described() == "stream, machine virt-10.0, 1 vCPU of 3 registers"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_host_description(host: Path, pack: type[bytes]) -> None:
    host.write_bytes(pack(b"\n " + host.read_bytes()))
    loaded = load_subject(str(host))
    assert loaded.kind == "host"
    assert loaded.host is not None
    assert [(vcpu.vcpu, vcpu.registers) for vcpu in loaded.vcpus] == [(0, loaded.host.registers)]
    assert loaded.described() == "host new, Linux 7.3, 2 registers"


def test_a_host_with_a_qemu_and_without_a_kernel(host: Path) -> None:
    described = host.read_text().replace('"kernel": "7.3"', '"qemu": "10.0"')
    host.write_text(described)
    assert load_subject(str(host)).described() == "host new, QEMU 10.0, 2 registers"


def test_what_is_neither(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("hello, world")
    with pytest.raises(InputError, match=r"not a migration stream: b'QEVM' expected, found b'hell'"):
        load_subject(str(path))


def test_json_that_is_no_host_description(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"format": "cake"}')
    with pytest.raises(InputError, match=r"other.json: host description \(proxyd-host, version 1\) expected"):
        load_subject(str(path))


def test_a_description_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_DESCRIPTION_BYTES", 1000)
    path = tmp_path / "long.json"
    path.write_text("{" + " " * 1000)
    with pytest.raises(InputError, match=r"long.json: a host description of at most 1000 bytes expected, found more"):
        load_subject(str(path))


def test_a_destination(host: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('[[rule]]\nkind = "remove"\nregister = "TCR2_EL1"\nreason = "gone"\n')
    both = load_destination(str(host), str(profile))
    assert both.host == load_host(str(host))
    assert both.profile is not None
    assert load_destination(None, str(profile)).host is None
    assert load_destination(str(host), None).profile is None


def test_a_destination_must_be_given() -> None:
    with pytest.raises(UsageError, match=r"--destination HOST.json or --profile FILE expected, found neither"):
        load_destination(None, None)


def test_a_bad_profile(tmp_path: Path) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text('[[rule]]\nkind = "remove"\nregister = "TCR2_EL"\nreason = "gone"\n')
    with pytest.raises(InputError, match=r"profile.toml: rule\[0\].register: .*TCR2_EL1"):
        load_destination(None, str(profile))


def test_a_destination_that_is_a_stream(stream: Path) -> None:
    with pytest.raises(InputError, match=r"small.bin: a host description expected, found a migration stream"):
        load_destination(str(stream), None)


def test_registers_by_name_and_id() -> None:
    assert register_ids(["TCR2_EL1", "0x603000000013c103", "tpidr_el1"]) == {0x603000000013C103, 0x603000000013C684}
    with pytest.raises(UsageError, match=r"found 'TCR2_EL' \(did you mean"):
        register_ids(["TCR2_EL"])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: images.save_image("zstd", data)])
def test_a_stream_is_no_destination_and_the_way_out_is_named(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "new-host.bin"
    path.write_bytes(pack(b.stream()))
    with pytest.raises(InputError) as caught:
        load_destination(str(path), None)
    assert str(caught.value) == (
        f"{path}: a host description expected, found a migration stream "
        f"('proxyd probe --from-stream {path} -o HOST.json' makes one of it)"
    )
