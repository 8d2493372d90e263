"""``proxyd check-config`` reads what the daemon would and says what is wrong where."""

from __future__ import annotations

from pathlib import Path

from tests.proxyd.cli.command import HOST_7_3, Run

ROUTE = """
[[route]]
name = "{name}"
listen = "127.0.0.1:{port}"
destination = "192.0.2.9:4444"
{more}
"""
PROFILE = '[[rule]]\nkind = "remove"\nregister = "TCR2_EL1"\nreason = "gone"\n'


def config(tmp_path: Path, *more: str) -> Path:
    path = tmp_path / "config.toml"
    routes = [ROUTE.format(name=f"r{n}", port=7000 + n, more=line) for n, line in enumerate(more)]
    path.write_text("\n".join(routes))
    (tmp_path / "profile.toml").write_text(PROFILE)
    (tmp_path / "host.json").write_bytes(HOST_7_3.read_bytes().replace(b"linux-7.3-neoverse-n1", b"seven"))
    return path


def test_a_good_one_says_what_it_does(run: Run, tmp_path: Path) -> None:
    path = config(
        tmp_path,
        'destination_host = "host.json"',
        'profile = "profile.toml"\nreturn_path = "optional"',
        'destination_host = "host.json"\nprofile = "profile.toml"',
        "",
        'destination_host = "host.json"\nrehearse = true',
    )
    ran = run("check-config", path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "route r0: 127.0.0.1:7000 -> 192.0.2.9:4444, rewritten for seven, return path require",
        "route r1: 127.0.0.1:7001 -> 192.0.2.9:4444, rewritten by a profile, return path optional",
        "route r2: 127.0.0.1:7002 -> 192.0.2.9:4444, rewritten for seven, with a profile, return path require",
        "route r3: 127.0.0.1:7003 -> 192.0.2.9:4444, nothing is rewritten, return path require",
        (
            "route r4: 127.0.0.1:7004 -> 192.0.2.9:4444, rewritten for seven, "
            "rehearsed by /run/proxyd/rehearse.sock, return path require"
        ),
        "remark: route r3: no profile and no destination_host, so nothing is rewritten",
        f"{path}: good",
    ]


def test_a_typo_is_1_with_file_and_key(run: Run, tmp_path: Path) -> None:
    path = config(tmp_path, 'destination_hots = "host.json"')
    ran = run("check-config", path)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"proxyd check-config: {path}: route[0].destination_hots: unknown key; did you mean ")


def test_a_host_description_that_is_missing_is_1(run: Run, tmp_path: Path) -> None:
    path = config(tmp_path, 'destination_host = "other.json"')
    ran = run("check-config", path)
    assert ran.code == 1
    assert f"route[0].destination_host: cannot read {tmp_path}/other.json" in ran.err


def test_a_configuration_that_is_missing_is_4(run: Run, tmp_path: Path) -> None:
    ran = run("check-config", tmp_path / "config.toml")
    assert (ran.code, ran.err) == (4, f"proxyd check-config: {tmp_path}/config.toml: no such file or directory\n")
