"""The seam to the operating system, and what a person reads when there is no KVM."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from pathlib import Path

import pytest

from proxyd.kvm import abi, system
from proxyd.kvm.system import CallRefused, KvmUnavailable, Linux, open_kvm
from tests.proxyd.kvm.fake_kernel import FakeKernel, os_error


def test_the_device_is_opened_for_writing_and_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(system, "DEVICE", str(device))
    fd = Linux().open_kvm()
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    assert not os.get_inheritable(fd)
    Linux().close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_struct_is_filled_in_place() -> None:
    """With a call that every file descriptor of a pipe knows: how many bytes are waiting."""
    reader, writer = os.pipe()
    os.write(writer, b"12345")
    waiting = bytearray(4)
    assert Linux().ioctl(reader, termios.FIONREAD, waiting) == 0
    assert struct.unpack("=i", waiting) == (5,)
    os.close(reader)
    os.close(writer)


def test_a_call_that_a_signal_interrupts_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([InterruptedError(), 7])

    def ioctl(fd: int, request: int, argument: object) -> int:
        assert (fd, request, argument) == (3, abi.KVM_CREATE_VM, 40)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert Linux().ioctl(3, abi.KVM_CREATE_VM, 40) == 7


def test_the_machine_is_that_of_uname() -> None:
    assert Linux().machine() == os.uname().machine


class Closed(FakeKernel):
    """A host whose /dev/kvm does not open."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def open_kvm(self) -> int:
        raise OSError(self.number, os.strerror(self.number), "/dev/kvm")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOENT, r"/dev/kvm is not there: the kernel needs CONFIG_KVM .*dmesg.*container"),
        (errno.EACCES, r"/dev/kvm: permission denied: run as a user of the group that owns it \(usually kvm\)"),
        (errno.ENODEV, r"^/dev/kvm: no such device$"),
    ],
)
def test_what_to_do_when_it_does_not_open(number: int, message: str) -> None:
    with pytest.raises(KvmUnavailable, match=message):
        open_kvm(Closed(number))


def test_another_architecture_is_told_first() -> None:
    kernel = Closed(errno.ENOENT)
    kernel.arch = "x86_64"
    with pytest.raises(KvmUnavailable, match=r"^this host is x86_64: .* on the arm64 host itself$"):
        open_kvm(kernel)


def test_a_refused_call_says_which_and_about_what() -> None:
    assert str(CallRefused(abi.KVM_GET_ONE_REG, "TCR2_EL1", errno.ENOENT)) == (
        "KVM_GET_ONE_REG of TCR2_EL1: no such file or directory (ENOENT)"
    )
    assert str(CallRefused(0x1234, "", 9999)) == "0x1234: unknown error 9999 (9999)"
    assert CallRefused(abi.KVM_CREATE_VM, "", errno.EINVAL).errno == errno.EINVAL
    assert os_error(errno.EINVAL).errno == errno.EINVAL
