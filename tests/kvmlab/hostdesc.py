"""A host description (`proxyd probe`'s format) made from the register list that a lab's host shows right now."""

import json
from typing import Any

from tests.kvmlab.host import Host

FEATURES = ("pmu", "sve", "pauth")
"""What QEMU's -cpu host asks for where the host has it, and so what a guest's list depends on."""


async def read_register_list(host: Host, features: tuple[str, ...] = FEATURES) -> dict[str, Any]:
    """Return what inside/reglist.c prints on *host*, with the CPU that was emulated."""
    listed = json.loads(await host.run(f"/lab/reglist {' '.join(features)}"))
    return {"cpu": host.spec.cpu, **listed}


def host_description(listed: dict[str, Any], qemu: str) -> bytes:
    """Return the description of a host with the register list *listed*, on which QEMU *qemu* loads the guest."""
    return json.dumps(
        {
            "format": "proxyd-host",
            "version": 1,
            "name": f"{listed['kernel']} on {listed['cpu']}",
            "kernel": listed["kernel"],
            "cpu": listed["cpu"],
            "qemu": qemu,
            "accelerator": "kvm",
            "origin": "reglist",
            # Registers without a value are SVE's, which do not travel in the list.
            "registers": [{"id": key, "value": value} for key, value in listed["registers"].items() if value],
            "writable_masks": listed["writable_masks"],
        },
        indent=1,
    ).encode()
