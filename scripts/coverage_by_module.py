"""Fail if any module of the product is covered less than asked: ``coverage_by_module.py coverage.json 95``.

The total that coverage itself can gate hides a module without tests behind many with.
"""

import json
import sys
from pathlib import Path


def main(report: str, threshold: str) -> None:
    """Exit with a line for each module below *threshold* per cent, lines and branches together."""
    files = json.loads(Path(report).read_text())["files"]
    if not files:
        sys.exit(f"{report}: no module was measured")
    below = [
        f"{name}: covered {percent:.1f} %, expected at least {threshold} %"
        for name, entry in sorted(files.items())
        if (percent := entry["summary"]["percent_covered"]) < float(threshold)
    ]
    if below:
        sys.exit("\n".join(below))


if __name__ == "__main__":
    main(*sys.argv[1:])
