"""The JSON schema of host descriptions, for tools that write or check them.

python -m tests.hosts.schema        brings docs/host-description.schema.json up to date
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from proxyd.rewrite.host import Document

PAGE = Path(__file__).parents[2] / "docs" / "host-description.schema.json"


def schema() -> str:
    """As it stands in the file."""
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "proxyd host description"}
    return json.dumps(made | msgspec.json.schema(Document), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(schema())
