"""The fault campaign: whatever dies, lies or stalls, at whatever byte, exactly one QEMU has a running guest afterwards.

    python -m tests.faults run --memory    every byte, in memory: the real session, peers that follow QEMU's rules
    python -m tests.faults run --qemu      real QEMUs, real processes and sockets
    python -m tests.faults report          docs/reliability.md, of what the runs left in results/

``memory_*.py`` and ``qemu_*.py`` are the two benches; ``tally.py`` says what lost and doubled are, for both.
"""
