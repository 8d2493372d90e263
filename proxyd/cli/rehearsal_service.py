"""Answer one migration's questions about this host's KVM, on a socket that is standard input.

For the service manager: systemd/proxyd-rehearse.socket starts it for each connection of a daemon whose route says
rehearse = true. It needs /dev/kvm, and the daemon then needs no right on it. It ends when the connection does.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from typing import Final

from proxyd.cli.exit_codes import ExitCode, UsageError

STANDARD_INPUT: Final = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``rehearsal-service``: no arguments of its own."""
    del parser


def run(arguments: argparse.Namespace) -> ExitCode:
    """Serve the connection."""
    from proxyd.cli.probe import live_host
    from proxyd.kvm import host_facts
    from proxyd.kvm.rehearsal_service import serve

    del arguments
    if not stat.S_ISSOCK(os.fstat(STANDARD_INPUT).st_mode):
        raise UsageError("a connected socket as standard input expected (see systemd/proxyd-rehearse.socket)")
    system, clock = live_host()
    try:
        serve(STANDARD_INPUT, system, clock, host_facts.kernel_release())
    except (BrokenPipeError, ConnectionResetError):
        # The daemon has given up on the migration, or died: nobody is left to tell.
        sys.stderr.write("proxyd rehearsal-service: the daemon is gone\n")
    return ExitCode.DONE
