"""``proxyd demo``: the main job on one machine, with nothing but Python, or with two real QEMU processes.

The two ends are stand-ins, the proxy between them is the daemon itself. What the stand-ins know of QEMU and KVM they
know by themselves: nothing here uses ``formats`` to read the stream, so they are also an opinion of their own on what
proxyd writes.

``data/`` holds a stream recorded from a real KVM guest under Linux 6.12 (see the .json beside it), the register list
that a real Linux 7.3 gave for the same CPU, and a bare-metal guest for real QEMUs.
"""
