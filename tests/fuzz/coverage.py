"""Coverage-guided: atheris changes inputs so that they reach code that none has reached.

    pip install atheris        (CPython 3.11 to 3.13 on x86; not a dependency, and no part of the tests)
    python -m tests.fuzz.coverage TARGET [libFuzzer's options, such as -max_total_time=600 CORPUS_DIRECTORY]

The bytes that it makes are choices, so each input is a stream that is legal for most of its length.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["formats", "proxyd"]):
    from tests.fuzz.choices import ByteChoices
    from tests.fuzz.targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: target(ByteChoices(data)) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
