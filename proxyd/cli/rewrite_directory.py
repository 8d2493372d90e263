"""All saved guests of a directory in one run: before a kernel change, a managedsave directory for instance.

Every image by itself, so that one which is refused or broken costs the others nothing; no state but the images
themselves, so that a run which was interrupted is simply started again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from formats.files import libvirt_image
from formats.savevm import QEMU_VM_FILE_MAGIC
from proxyd.cli import rewrite_view
from proxyd.cli.exit_codes import CommandError, ExitCode, UsageError
from proxyd.cli.image_job import ImageRefused, Job, work
from proxyd.cli.packing import MAGICS
from proxyd.cli.rewrite_view import Entry
from proxyd.cli.terminal import plain, says

if TYPE_CHECKING:
    import argparse

    from proxyd.rewrite.policy import RewritePolicy

_IMAGES: Final = (QEMU_VM_FILE_MAGIC, libvirt_image.MAGIC, libvirt_image.MAGIC_PARTIAL, *MAGICS.values())
_LOOK_BYTES: Final = max(map(len, _IMAGES))

# From harmless to bad: what a directory's exit code is taken from.
_SEVERITY: Final = [
    ExitCode.DONE,
    ExitCode.REFUSED,
    ExitCode.BAD_INPUT,
    ExitCode.UNREACHABLE,
    ExitCode.USAGE,
    ExitCode.INTERNAL,
]


def run(arguments: argparse.Namespace, policy: RewritePolicy) -> ExitCode:
    """Rewrite every image. Returns the worst exit code."""
    source = Path(arguments.input)
    target = None if arguments.output is None else Path(arguments.output)
    if target is not None:
        target.mkdir(exist_ok=True)
        if target.resolve() == source.resolve():
            raise UsageError(f"{target} is the input itself (--in-place replaces its images)")
    images, skipped = _images_in(source)
    entries: list[Entry] = []
    for number, image in enumerate(images, 1):
        says(f"[{number}/{len(images)}] {plain(image.name)}", quiet=arguments.json)
        output = None if target is None else str(target / image.name)
        entries.append(_one(Job(str(image), output, not arguments.no_verify, resume=True), policy))
    code = max((entry.code for entry in entries), key=_SEVERITY.index, default=ExitCode.DONE)
    rewrite_view.tell_directory(arguments, entries, skipped, code)
    return code


def _one(job: Job, policy: RewritePolicy) -> Entry:
    name = Path(job.input).name
    try:
        done = work(job, policy)
    except ImageRefused as error:
        return Entry(name, error.done.result, error.code, error.done, str(error))
    except CommandError as error:
        return Entry(name, "failed", error.code, error=str(error))
    except OSError as error:
        text = error.strerror or str(error)
        return Entry(name, "failed", ExitCode.UNREACHABLE, error=f"{error.filename or job.input}: {text}")
    return Entry(name, done.result, ExitCode.DONE, done)


def _images_in(directory: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """The files that may hold a stream, by their first bytes, and the others with the reason."""
    images: list[Path] = []
    skipped: list[tuple[str, str]] = []
    for path in sorted(directory.iterdir()):
        if not path.is_file():
            skipped.append((path.name, "no regular file"))
        elif path.name.startswith("."):
            skipped.append((path.name, "a hidden file, such as an interrupted run leaves"))
        elif _begins(path).startswith(_IMAGES):
            images.append(path)
        else:
            skipped.append((path.name, "holds no migration stream"))
    return images, skipped


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), _LOOK_BYTES, 0)
    except OSError:
        return QEMU_VM_FILE_MAGIC  # whoever reads it will say why it cannot be read
