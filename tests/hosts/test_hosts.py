"""The host descriptions in this directory, made by ``proxyd probe`` in the lab, say what another program read there.

``python -m tests.kvmlab probe KERNEL --cpu CPU`` makes them. The other program shares no code with proxyd: it is C, and
its lists are in ``tests/reglists``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from formats.arm64.register_id import id_of, kind_of
from proxyd.rewrite.host import NOT_IN_LIST, HostDescription
from tests import recorded

LISTS = sorted((Path(__file__).parents[1] / "reglists").glob("*.json"))

# Two count on, one is what a fresh vCPU of Linux 6.12 holds at random.
NOT_COMPARED = {id_of(name) for name in ("TIMER_CNT", "PTIMER_CNT", "PMOVSSET_EL0")}


def test_there_are_lists() -> None:
    assert len(LISTS) == 3


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_description_is_the_list(path: Path) -> None:
    listed = json.loads(path.read_bytes())
    kernel, cpu = listed["host"]["kernel"], listed["host"]["cpu"]
    described = HostDescription.parse(recorded.host_json(kernel, cpu), "host")
    read = {int(text, 16): value for text, value in listed["regs"].items()}
    expected = {register: int(value, 16) for register, value in read.items() if kind_of(register) not in NOT_IN_LIST}
    assert list(described.registers) == sorted(expected)
    assert {r: v for r, v in described.registers.items() if r not in NOT_COMPARED} == {
        r: v for r, v in expected.items() if r not in NOT_COMPARED
    }
    assert described.writable_masks == {int(text, 16): int(m, 16) for text, m in listed["writable_masks"].items()}


@pytest.mark.parametrize("cpu", recorded.CPUS)
@pytest.mark.parametrize("kernel", recorded.KERNELS)
def test_every_description_is_whole(kernel: str, cpu: str) -> None:
    described = HostDescription.parse(recorded.host_json(kernel, cpu), "host")
    assert (described.name, described.origin) == (f"Linux {kernel} on {cpu}", "probe")
    assert (described.kernel or "").startswith(f"{kernel}.")
    assert described.variants
    assert described.pmu_writes == ("as-guest" if kernel == "6.12" else "stored")
    assert (described.writable_masks is None) == (kernel == "6.1")
