"""What all tests rest on."""

import signal


def pytest_configure() -> None:
    """Let SIGINT be what it is in a terminal, for this process and for those that tests start.

    A shell without job control starts what it puts in the background with SIGINT ignored, and Python then leaves it at
    that, as it should; a test that interrupts a process of its own would wait in vain.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
