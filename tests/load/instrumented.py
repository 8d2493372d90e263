"""``python -m tests.load.instrumented REPORT serve ...``: proxyd, with somebody who looks how long its loop is busy.

A trio instrument, nothing else: between two waits for I/O the event loop runs every task that is ready, and whoever
becomes ready meanwhile waits for the end of that turn. The report is a JSON object, written at the end. A name that
ends in ``.hangs`` hangs the resolver, as a dead DNS server does.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import trio

from proxyd.cli import main as cli


class LongestTurn(trio.abc.Instrument):
    """How long the longest turn was."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._began = time.perf_counter()
        self.turn = 0.0

    def after_io_wait(self, timeout: float) -> None:
        self._began = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        self.turn = max(self.turn, time.perf_counter() - self._began)

    def after_run(self) -> None:
        self._report.write_text(json.dumps({"longest_turn_s": self.turn}))


def main() -> int:
    report = Path(sys.argv[1])
    run, lookup = trio.run, socket.getaddrinfo

    def watched(*arguments: Any, **given: Any) -> Any:
        return run(*arguments, **given, instruments=[LongestTurn(report)])

    def hanging(host: Any, *arguments: Any, **given: Any) -> Any:
        if str(host).endswith(".hangs") and "flags" not in given:
            threading.Event().wait(120)
        return lookup(host, *arguments, **given)

    trio.run = watched
    socket.getaddrinfo = hanging
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
