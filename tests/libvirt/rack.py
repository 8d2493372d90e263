"""A source, a destination and a host between them, with libvirt configured, and the counting guest's domain."""

import random
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import certificates
from tests.libvirt.host import Host, host
from tests.qemu import counting

NETWORK = {"proxy": "192.0.2.10", "source": "192.0.2.11", "destination": "192.0.2.12"}
"""Hosts, each called NAME.example, and their addresses. ``proxy`` runs no guest."""

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
DATA_AT = 0x41000000
DATA_BYTES = 8 << 20
"""Random memory of the guest's, which it never touches: what migrates beside the registers."""

NO_PMU = "-global arm-cpu.pmu=off"
"""What the destination's hardware lacks."""

DOMAIN = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
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
  <qemu:commandline>
    <qemu:arg value='-device'/>
    <qemu:arg value='loader,file={data},addr={address:#x},force-raw=on'/>
  </qemu:commandline>
</domain>
"""


@dataclass(frozen=True, slots=True)
class Rack:
    """The hosts, up and connected."""

    source: Host
    destination: Host
    proxy: Host
    shared: Path

    @property
    def hosts(self) -> tuple[Host, Host]:
        """Return those with guests."""
        return self.source, self.destination

    @contextmanager
    def guest(self, kernel: Path) -> Iterator[None]:
        """Run the counting guest *kernel*, called ``guest``, on the source; at the end it is gone from both hosts."""
        data = self.shared / "data"
        data.write_bytes(random.Random(4).randbytes(DATA_BYTES))
        xml = self.shared / "guest.xml"
        image = self.shared / "kernel"
        image.write_bytes(kernel.read_bytes())
        xml.write_text(DOMAIN.format(kernel=image, data=data, address=DATA_AT))
        for one in self.hosts:
            for log in ("/var/log/console", "/var/log/libvirt/qemu/guest.log"):
                one.path(log).write_bytes(b"")
        self.source.virsh("define", str(xml))
        self.source.virsh("start", "guest")
        try:
            self.source.ticks(5)
            yield
        finally:
            for one in self.hosts:
                one.try_run("virsh", "destroy", "guest")
                one.try_run("virsh", "undefine", "--managed-save", "guest")

    def is_intact_at(self, place: Host) -> bool:
        """Say whether the guest runs at *place*, goes on there, and has the memory with which it began."""
        assert place.state("guest") == "running", place.account()
        place.ticks(5)
        dump = self.shared / "dump"
        place.virsh("qemu-monitor-command", "guest", "--hmp", f'pmemsave {DATA_AT:#x} {DATA_BYTES:#x} "{dump}"')
        return dump.read_bytes() == (self.shared / "data").read_bytes()

    def said(self) -> set[str]:
        """Return what the guest said of its registers, on both hosts together; its count has to go on."""
        return set(counting.findings(*(one.console() for one in self.hosts)))


def _files(directory: Path, name: str, authority: Path) -> Path:
    """Write what host *name* has over its packages into *directory*, and return that."""
    addresses = "".join(f"{address} {other}.example\n" for other, address in NETWORK.items())
    content: Mapping[str, str] = {
        "etc/hosts": f"127.0.0.1 localhost\n{addresses}",
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:102::/:/bin/false\n",
        "etc/group": "root:x:0:\nkvm:x:102:\nlibvirt:x:103:\nlibvirt-qemu:x:64055:\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "etc/libvirt/libvirtd.conf": LIBVIRTD.format(uuid=uuid.uuid4()),
        "etc/libvirt/qemu.conf": QEMU,
        "opt/qemu": EMULATOR.format(arguments=NO_PMU if name == "destination" else ""),
    }
    for path, text in content.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (directory / "opt/qemu").chmod(0o755)
    shutil.copytree(authority, directory / "etc/pki/qemu")
    for side in ("server", "client"):
        certificates.make_certificate(directory / "etc/pki/qemu", side, host=f"{name}.example")
    return directory


@contextmanager
def rack(directory: Path) -> Iterator[Rack]:
    """Start the three hosts; *directory* is seen by all under the same path."""
    authority = directory / "authority"
    certificates.make_authority(authority)
    up: dict[str, Host] = {}
    with ExitStack() as stack:
        for name, address in NETWORK.items():
            files = _files(directory / f"{name}.files", name, authority)
            up[name] = stack.enter_context(host(name, address, files, directory, up.get("proxy")))
        yield Rack(up["source"], up["destination"], up["proxy"], directory)
