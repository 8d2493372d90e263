"""Makes the host descriptions beside this file from register lists that were read on real kernels.

    python -m tests.hosts.from_reglist LIST.json [LIST.json ...]

A register list is a JSON object: ``kernel``, ``regs`` and ``writable_masks`` (id to value), ``caps``, and ``host`` with
the short ``kernel`` and the emulated ``cpu``. ``tests/reglists`` has three; the descriptions say the same as thirty
lists in a seventh of the space.
"""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from typing import Any

from formats.arm64.cpreg_list import CpregList
from formats.arm64.register_id import kind_of
from proxyd.rewrite.host import NOT_IN_LIST, HostDescription

HERE = Path(__file__).parent


def description_of(listed: dict[str, Any]) -> HostDescription:
    """The description of the host that *listed* was read on."""
    host = listed["host"]
    ids = {int(text, 16): text for text in listed["regs"]}
    registers = {
        register: int(listed["regs"][text], 16)
        for register, text in ids.items()
        if kind_of(register) not in NOT_IN_LIST
    }
    masks = listed["writable_masks"]
    return HostDescription(
        name=f"Linux {host['kernel']} on {host['cpu']}",
        registers=CpregList(registers),
        origin="reglist",
        kernel=listed["kernel"],
        cpu=host["cpu"],
        writable_masks={int(text, 16): int(mask, 16) for text, mask in masks.items()} if masks else None,
        # A question mark is the lab's own: a capability that it was not sure to ask for by the right number.
        capabilities={name: value for name, value in listed["caps"].items() if not name.endswith("?")},
    )


def main(paths: list[str]) -> None:
    """Write one ``KERNEL-CPU.json.xz`` beside this file for each list."""
    for path in paths:
        listed = json.loads(Path(path).read_bytes())
        host = listed["host"]
        target = HERE / f"{host['kernel']}-{host['cpu']}.json.xz"
        target.write_bytes(lzma.compress(description_of(listed).to_json(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main(sys.argv[1:])
