"""The seam: the system calls that everything in this package goes through. Tests put a kernel of their own here."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final, Protocol

from proxyd.kvm.abi import NAMES

DEVICE: Final = "/dev/kvm"


class KvmError(Exception):
    """KVM cannot be asked, or says no. The message is one sentence, with what to do where that is known."""


class KvmUnavailable(KvmError):
    """There is no KVM for this process on this host."""


class WrongHost(KvmUnavailable):
    """This is no arm64 host."""


class CallRefused(KvmError):
    """An ioctl failed: which one, about what, and the error. ``errno`` is there for who knows what it means here."""

    def __init__(self, request: int, subject: str, number: int) -> None:
        name = errno.errorcode.get(number, str(number))
        text = os.strerror(number)
        about = f" of {subject}" if subject else ""
        super().__init__(f"{NAMES.get(request, hex(request))}{about}: {text[:1].lower()}{text[1:]} ({name})")
        self.errno = number


class System(Protocol):
    """What is asked of the operating system. Errors are :class:`OSError`, as the calls themselves raise them."""

    def machine(self) -> str:
        """The architecture, as ``uname -m`` says."""

    def open_kvm(self) -> int:
        """Open /dev/kvm for reading and writing; the file descriptor."""

    def ioctl(self, fd: int, request: int, argument: int | bytearray) -> int:
        """ioctl(2). A struct is passed in place: what the kernel writes is there afterwards."""

    def close(self, fd: int) -> None:
        """close(2)."""


class Linux:
    """The real one."""

    def machine(self) -> str:
        """As ``uname -m`` says."""
        return os.uname().machine

    def open_kvm(self) -> int:
        """Open /dev/kvm."""
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)

    def ioctl(self, fd: int, request: int, argument: int | bytearray) -> int:
        """Call it again when a signal interrupts it, as QEMU does (accel/kvm/kvm-all.c: kvm_init)."""
        while True:
            try:
                return fcntl.ioctl(fd, request, argument)
            except InterruptedError:
                continue

    def close(self, fd: int) -> None:
        """Close it."""
        os.close(fd)


def open_kvm(system: System) -> int:
    """Open /dev/kvm and say what to do when that fails. Raises :class:`KvmUnavailable`."""
    if (machine := system.machine()) != "aarch64":
        raise WrongHost(f"this host is {machine}: KVM's register list is asked for on the arm64 host itself")
    try:
        return system.open_kvm()
    except FileNotFoundError as error:
        raise KvmUnavailable(
            f"{DEVICE} is not there: the kernel needs CONFIG_KVM and firmware that starts it at EL2 "
            "(dmesg | grep kvm says what is wrong), and a container needs the device passed in"
        ) from error
    except PermissionError as error:
        raise KvmUnavailable(
            f"{DEVICE}: permission denied: run as a user of the group that owns it (usually kvm), or as root"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise KvmUnavailable(f"{DEVICE}: {reason[:1].lower()}{reason[1:]}") from error
