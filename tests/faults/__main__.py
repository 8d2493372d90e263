"""``python -m tests.faults run`` breaks migrations; ``python -m tests.faults report`` writes what became of them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import datetime
from pathlib import Path

from tests.faults import memory_campaign, page, qemu_campaign
from tests.faults.memory_stream import fitting, sent
from tests.faults.tally import RESULTS, Row, read, write
from tests.faults.verdict import worse


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="try all faults")
    which = run.add_mutually_exclusive_group(required=True)
    which.add_argument("--memory", action="store_true", help="every byte, in memory: about ten minutes of one core")
    which.add_argument("--qemu", action="store_true", help="real QEMUs: 20 to 60 minutes, by the machine")
    which.add_argument("--all", action="store_true", help="both")
    run.add_argument("--out", type=Path, default=RESULTS, help="directory for the results (default: %(default)s)")
    run.add_argument("--stride", type=int, default=1, help="in memory: only every so many bytes")
    run.add_argument(
        "--proxy", action="append", choices=memory_campaign.PROXIES, help="in memory: only this one; others' rows stay"
    )
    run.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="in memory: how many at a time")
    run.add_argument("--workers", type=int, default=4, help="real QEMUs: how many tries at a time")
    report = commands.add_parser("report", help="write docs/reliability.md from the results")
    report.add_argument("-o", "--output", type=Path, default=page.PAGE)
    given = parser.parse_args(arguments)
    if given.command == "report":
        given.output.write_text(page.document())
        return 0
    status = 0
    if given.memory or given.all:
        status |= _memory(given.out, given.stride, given.processes, given.proxy)
    if given.qemu or given.all:
        status |= _qemu(given.out, given.workers)
    return status


def _memory(directory: Path, stride: int, processes: int, proxies: list[str] | None) -> int:
    began = time.monotonic()

    def progress(done: int, all_of_them: int) -> None:
        print(f"{done} of {all_of_them}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    results = directory / "memory.json"
    kept = [row for row in read(results)[0] if row.cell.proxy not in proxies] if proxies else []
    rows = kept + memory_campaign.run(stride, processes, progress, proxies or memory_campaign.PROXIES).rows()
    write(results, rows, _facts() | {"bytes_in": len(sent().wire), "bytes_out": len(fitting().wire)})
    return _judge(rows)


def _qemu(directory: Path, workers: int) -> int:
    """What was tried is kept until all is: a run that was interrupted goes on where it was."""
    kept = directory / "qemu.part.jsonl"
    tally, failed = qemu_campaign.run(kept, workers, progress=lambda text: print(text, file=sys.stderr, flush=True))
    if failed:
        print(f"{failed} tries did not come about; run it again for these")
        return 1
    write(directory / "qemu.json", tally.rows(), _facts())
    kept.unlink()
    return _judge(tally.rows())


def _facts() -> dict[str, str]:
    return {"date": datetime.now().astimezone().date().isoformat()}


def _judge(rows: list[Row]) -> int:
    found = worse(rows)
    print("\n".join(found) or "nothing is worse than without proxyd")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())
