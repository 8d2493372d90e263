"""Real arm64 kernels with real KVM on any machine: hosts emulated by QEMU's TCG, with an emulated EL2.

    this machine (TCG)               emulated host (EL2)             guest
    qemu-system-aarch64        ->    Debian's arm64 kernel     ->    qemu-system-aarch64 -accel kvm -cpu host
    -M virt,virtualization=on        busybox, /dev/kvm               tests/guest/kvm_checker.c

What each file is for:

    lab.toml       which kernels, QEMUs and sets of devices there are: data, read by catalogue.py
    packages.py    gets them from Debian
    programs.py    compiles what runs inside the hosts and guests (inside/, ../guest/)
    initramfs.py   puts a host's root file system together (cpio.py writes the archive)
    arm64_python.py  proxyd and a Python for the hosts, as an archive to boot with
    lab.py         one run of the lab: boots hosts, ends everything
    host.py        one emulated host and its shell; guest.py one guest under KVM; checker.py what it prints
    linux_image.py the Linux guest's kernel, initramfs and disk; linux_guest.py what it prints
    migration.py   one live migration and how it ended at both sides; recorder.py a relay that keeps the bytes
    proxy.py       a `proxyd serve` process with one route; pair.py a migration without and with it
    matrix.py      many pairs, several at a time, resumable; matrix.toml and selection.py say which
    station.py     one host of a matrix with what it keeps between pairs
    prediction.py  what proxyd says will happen; judgement.py whether it did
    results.py     results files as facts; measured.py those in the tree; report.py makes docs/compatibility.md of them
    __main__.py    the command line: python -m tests.kvmlab --help

docs/kvmlab.md tells how it works and how long it takes.
"""
