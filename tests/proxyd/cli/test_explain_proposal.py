"""``proxyd explain --propose``: a profile on standard output, in which nothing else is live."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from formats.arm64.register_id import name_of
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.knowledge_file import parse_knowledge
from proxyd.rewrite.profile import Profile
from tests.proxyd.cli.command import FROM_7_3, RETURN_PATH, Run
from tests.recorded import HOSTS, STREAMS

OLD, NEW = HOSTS / "6.12-neoverse-n1.json.xz", HOSTS / "7.3-neoverse-n1.json.xz"

LOG = """\
qemu-system-aarch64: Could not set register fw reg 0 to 10003 (is 10001)
qemu-system-aarch64: Failed to put registers after init: Invalid argument
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "qemu.log"
    path.write_text(LOG)
    return path


def test_the_profile_makes_the_plan_load(run: Run, log: Path, tmp_path: Path) -> None:
    ran = run("explain", "--propose", "--stream", FROM_7_3, "--destination", OLD, log)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("# a draft, made by 'proxyd explain --propose' from what was seen. Review it: nothing")
    assert (
        '# With this profile, and allow = ["FW_PSCI_VERSION"], the plan for the stream is: loads rewritten.' in ran.out
    )
    profile = tmp_path / "proposed.toml"
    profile.write_text(ran.out)
    assert [rule.value for rule in Profile.parse(ran.out.encode(), "p").rules if hasattr(rule, "value")] == [0x10001]
    assert run("plan", "--destination", OLD, FROM_7_3).code == 3
    assert run("plan", "--destination", OLD, "--profile", profile, FROM_7_3).code == 3, "it has to be allowed by name"
    assert run("plan", "--destination", OLD, "--profile", profile, "--allow", "FW_PSCI_VERSION", FROM_7_3).code == 0


# Linux 7.3 to 6.12 on neoverse-n1, what QEMU 11.1.3 printed at the destination.
SEEN = """\
qemu: handle_cpreg_only_in_incoming_stream: system register op0:3 op1:0 crn:9 crm:14 op2:6 in the incoming stream but \
unknown on the destination: fail migration
qemu: Could not set register fw reg 0 to 10003 (is 10001)
qemu: Could not set register fw reg 0 to 10003 (is 10001)
qemu: Failed to put registers after init: Invalid argument
"""


def test_a_real_log_and_a_real_stream(run: Run, log: Path) -> None:
    log.write_text(SEEN)
    stream = STREAMS / "7.3-11.1.3-neoverse-n1-plain-smp1.bin.xz"
    ran = run("explain", "--propose", "--stream", stream, "--destination", OLD, log)
    assert ran.code == 0
    assert [type(rule).__name__ for rule in Profile.parse(ran.out.encode(), "p").rules] == ["Remove", "Set"]
    assert (
        '# With this profile, and allow = ["FW_PSCI_VERSION"], the plan for the stream is: loads rewritten.' in ran.out
    )


# Linux 6.12 to 7.3 on max, the same.
SEEN_ON_MAX = """\
qemu: warning: handle_cpreg_missing_in_incoming_stream: system register op0:3 op1:0 crn:1 crm:0 op2:3 expected by the \
destination but not in the incoming stream: skip it
qemu: warning: handle_cpreg_missing_in_incoming_stream: fw feat reg 3 expected by the destination but not in the \
incoming stream: skip it
qemu: Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM
qemu: Could not set register system register op0:3 op1:0 crn:1 crm:0 op2:3: unknown to KVM
qemu: Failed to put registers after init: Invalid argument
"""


def test_a_real_log_about_a_hidden_register(run: Run, log: Path) -> None:
    log.write_text(SEEN_ON_MAX)
    stream = STREAMS / "6.12-10.0.13-max-plain-smp1.bin.xz"
    ran = run("explain", "--propose", "--stream", stream, "--destination", HOSTS / "7.3-max.json.xz", log)
    assert ran.code == 0
    (rule,) = Profile.parse(ran.out.encode(), "p").rules
    assert (type(rule).__name__, name_of(rule.register)) == ("SetBits", "ID_AA64MMFR3_EL1")
    assert "# With this profile the plan for the stream is: loads rewritten." in ran.out


def test_json(run: Run, log: Path) -> None:
    document = run("explain", "--propose", "--stream", FROM_7_3, "--destination", OLD, log, "--json").document
    assert (document["command"], document["allow"], document["outcome"]) == (
        "explain", ["FW_PSCI_VERSION"], "loads-rewritten",
    )  # fmt: skip
    assert (document["knowledge"], document["remarks"]) == (None, [])
    assert Profile.parse(document["profile"].encode(), "p").name == "to be reviewed: Linux 6.12 on neoverse-n1"


def test_what_the_knowledge_base_lacks_is_there_in_comments(
    run: Run, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Knowledge, "builtin", staticmethod(Knowledge))
    ran = run("explain", "--propose", "--stream", FROM_7_3, "--destination", OLD, log)
    assert "# For the knowledge base, where it says nothing of this yet" in ran.out
    assert '# registers = ["FW_PSCI_VERSION"]' in ran.out
    assert "# Still refused: vcpu 0: PMMIR_EL1" in ran.out
    commented = ran.out.partition("(proxyd/knowledge/*.toml):\n")[2]
    fragment = "\n".join(line.removeprefix("#").removeprefix(" ") for line in commented.splitlines())
    assert len(parse_knowledge([("k", fragment.encode())]).entries) == 1
    assert len(Profile.parse(ran.out.encode(), "p").rules) == 1


def test_without_a_rule_it_says_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"load of migration failed: Operation not permitted"))
    )
    ran = run("explain", "--propose", "--stream", RETURN_PATH, "-")
    assert (ran.code, ran.err) == (0, "")
    assert "# No rule was found for:\n# a register that the destination does not list, and none is named" in ran.out
    assert all(line.startswith("#") for line in filter(None, ran.out.splitlines()))


def test_json_without_a_rule(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("Could not set register fw reg 0: Device or resource busy")
    document = run("explain", "--propose", "--stream", NEW, "--json", path).document
    assert (document["profile"], document["outcome"]) == (None, None)
    assert "EBUSY has no cause in the stream" in document["remarks"][0]


def test_a_log_about_something_else_is_1(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("Sibling indicated error 1")
    ran = run("explain", "--propose", "--stream", FROM_7_3, path)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"proxyd explain: {path}: a failure over registers expected, found none")


@pytest.mark.parametrize(
    "arguments", [["--propose", "log"], ["--propose", "--stream", "s", "log", "more"], ["--stream", "s", "TCR2_EL1"]]
)
def test_usage(run: Run, arguments: list[str]) -> None:
    ran = run("explain", *arguments)
    assert ran.code == 2
    assert "--propose" in ran.err
    assert run("explain", "--destination", "h", "TCR2_EL1").code == 2


def test_a_log_that_is_not_there_is_4(run: Run) -> None:
    assert run("explain", "--propose", "--stream", FROM_7_3, "/nowhere.log").code == 4
