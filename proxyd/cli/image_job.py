"""One image's way from IN to OUT: what is to be done with it, and what became of it.

The outcome says in one word what an operator wants to know of each file of a directory. Errors are raised, as
everywhere on the command line; a refusal carries what is known of the file.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from formats.errors import FormatError
from proxyd.cli.exit_codes import InputError, RefusedError
from proxyd.cli.image_compare import same_already
from proxyd.cli.offline_rewrite import Identity, Reading, changes_nothing, survey, write
from proxyd.cli.output_file import STANDARD_OUTPUT, open_output
from proxyd.cli.stream_file import StreamFile, open_stream
from proxyd.cli.terminal import plain
from proxyd.rewrite.rewriter import RewriteRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.rewrite.policy import RewritePolicy
    from proxyd.rewrite.report import RewriteReport


class Result(StrEnum):
    """What became of one image."""

    REWRITTEN = "rewritten"  # OUT is new, and the device part differs
    COPIED = "copied"  # OUT is new, and the same as IN
    UNCHANGED = "unchanged"  # in place: nothing had to change, nothing was written
    THERE_ALREADY = "there-already"  # OUT is what would be written
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Job:
    """``output`` is None for a file that is to be replaced. ``resume``: see first whether OUT is there already."""

    input: str
    output: str | None
    prove: bool = True
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a job. ``content_bytes`` counts the stream in OUT, None where nothing was written."""

    job: Job
    result: Result
    container: str
    bytes_in: int
    content_bytes: int | None
    passed_unchanged: str | None
    report: RewriteReport | None
    identity: Identity | None = None


class ImageRefused(RefusedError):
    """A refusal, with what was found out before it."""

    def __init__(self, message: str, done: Done) -> None:
        super().__init__(message)
        self.done = done


def container_of(file: StreamFile) -> str:
    """What kind of file it is, for people: ``stream``, ``stream, gzip``, ``libvirt save image, zstd``."""
    if file.image is not None:
        return f"libvirt save image, {file.image.format.name.lower()}"
    return "stream" if file.compression is None else f"stream, {file.compression}"


def work(job: Job, policy: RewritePolicy) -> Done:
    """Do it. Raises :class:`InputError`, :class:`ImageRefused`, :class:`OSError` and what the rewriter calls a bug."""
    if job.output is None:
        # Read first: most files of a second run, and those that are refused, never cost a write.
        with _reading(job, policy) as reading:
            _only_containers(reading.file)
            survey(reading)
        if changes_nothing(reading.rewriter):
            return _done(job, reading, Result.UNCHANGED, None)
    elif job.resume and Path(job.output).exists():
        with _reading(job, policy) as reading:
            if same_already(reading, job.output):
                return _done(job, reading, Result.THERE_ALREADY, None)
    with _reading(job, policy) as reading:
        target = job.input if job.output is None else job.output
        with open_output(target, reading.file.details, in_place=job.output is None) as output:
            new_file = target != STANDARD_OUTPUT and Path(f"/proc/self/fd/{output.fileno()}").is_file()
            written = write(reading, output, new_file=new_file, prove=job.prove)
    result = Result.COPIED if changes_nothing(reading.rewriter) else Result.REWRITTEN
    return _done(job, reading, result, written.content_bytes, written.identity)


@contextmanager
def _reading(job: Job, policy: RewritePolicy) -> Iterator[Reading]:
    """One pass over the input; what is wrong with it leaves as the command line's errors."""
    with open_stream(job.input) as file:
        reading = Reading(file, policy)
        try:
            yield reading
        except FormatError as error:
            raise InputError(f"{plain(file.name)}: {plain(str(error))}") from error
        except RewriteRefused as error:
            done = _done(job, reading, Result.REFUSED, None)
            raise ImageRefused(
                f"{plain(file.name)}: refused: {plain(str(error))}", replace(done, report=error.report)
            ) from error


def _only_containers(file: StreamFile) -> None:
    if file.image is None and file.compression is not None:
        raise InputError(
            f"{plain(file.name)}: a file that stays what it is expected, found a stream packed by {file.compression}: "
            "it would be unpacked (give OUT, or unpack it first)"
        )


def _done(
    job: Job, reading: Reading, result: Result, content_bytes: int | None, identity: Identity | None = None
) -> Done:
    rewriter = reading.rewriter
    return Done(
        job,
        result,
        container_of(reading.file) + (", mapped-ram" if reading.sparse else ""),
        rewriter.bytes_in,
        content_bytes,
        rewriter.passthrough_reason,
        rewriter.report,
        identity,
    )
