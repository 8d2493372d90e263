"""A source, a destination and a host between them, with libvirt configured, and the counting guest's domain."""

import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import certificates
from tests.libvirt.host import Host, host

NETWORK = {"between": "192.0.2.10", "source": "192.0.2.11", "destination": "192.0.2.12"}
"""Host names and addresses; ``between`` runs no guest."""

LIBVIRTD = """\
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
"""

QEMU = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
migrate_tls_x509_cert_dir = "/etc/pki/qemu"
migrate_tls_x509_verify = 1
"""

EMULATOR = """\
#!/bin/sh
# What the domain's XML calls its emulator: the same QEMU, on another machine with another CPU under it.
exec /usr/bin/qemu-system-aarch64 "$@" {arguments}
"""
NO_PMU = "-global arm-cpu.pmu=off"
"""What the destination's hardware lacks."""

DOMAIN = """\
<domain type='qemu'>
  <name>guest</name>
  <uuid>c0ffee00-1234-4000-8000-000000000001</uuid>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='aarch64' machine='virt-10.0'>hvm</type>
    <kernel>{kernel}</kernel>
  </os>
  <features><gic version='2'/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>neoverse-n1</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>/opt/qemu</emulator>
    <serial type='file'><source path='/var/log/console' append='on'/></serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


@dataclass(frozen=True, slots=True)
class Rack:
    """The hosts, up and connected."""

    source: Host
    destination: Host
    between: Host
    shared: Path


def files(directory: Path, name: str, authority: Path, *, emulator_arguments: str = "", qemu_conf: str = "") -> Path:
    """Write what host *name* has over its packages into *directory*, and return that."""
    addresses = "".join(f"{address} {other}\n" for other, address in NETWORK.items())
    content: Mapping[str, str] = {
        "etc/hosts": f"127.0.0.1 localhost\n{addresses}",
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:102::/:/bin/false\n",
        "etc/group": "root:x:0:\nkvm:x:102:\nlibvirt:x:103:\nlibvirt-qemu:x:64055:\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "etc/libvirt/libvirtd.conf": LIBVIRTD.format(uuid=uuid.uuid4()),
        "etc/libvirt/qemu.conf": QEMU + qemu_conf,
        "opt/qemu": EMULATOR.format(arguments=emulator_arguments),
    }
    for path, text in content.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (directory / "opt/qemu").chmod(0o755)
    shutil.copytree(authority, directory / "etc/pki/qemu")
    for side in ("server", "client"):
        certificates.make_certificate(directory / "etc/pki/qemu", side, host=name)
    return directory


@contextmanager
def rack(directory: Path, *, qemu_conf: str = "") -> Iterator[Rack]:
    """Start the three hosts; the destination's CPU has no PMU. *directory* is seen by all under the same path."""
    up: dict[str, Host] = {}
    authority = directory / "authority"
    certificates.make_authority(authority)
    with ExitStack() as stack:
        for name, address in NETWORK.items():
            arguments = NO_PMU if name == "destination" else ""
            over = files(directory / f"{name}.files", name, authority, emulator_arguments=arguments, qemu_conf=qemu_conf)
            up[name] = stack.enter_context(host(name, address, over, directory, up.get("between")))
        yield Rack(up["source"], up["destination"], up["between"], directory)
