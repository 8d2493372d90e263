"""Talking to /dev/kvm on an arm64 host: which registers its KVM lists, which values they have, what it lets be written.

Pure Python: ``fcntl.ioctl`` on packed structs, nothing compiled. It runs no guest and maps no memory; a scratch vCPU is
made, asked and closed, which disturbs no other user of KVM. The daemon and the relay never import this package.

    abi.py        numbers and layouts of the kernel's interface
    system.py     the seam: the three system calls that everything goes through
    features.py   which features a vCPU may have
    scratch.py    a scratch VM and its vCPUs, made as QEMU makes them
    counter.py    how fast the generic timer counts
    host_facts.py what the host says outside KVM: kernel, CPUs, QEMU
    probe.py      all of it as a host description
"""
