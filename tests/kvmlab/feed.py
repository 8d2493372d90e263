"""What a program says, as it says it: waiting for a line or an event without asking again and again."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, TypeVar

import trio

from tests.kvmlab.catalogue import LabError

T = TypeVar("T")


class FeedEnded(LabError):
    """What was waited for did not come, and can no longer come."""


class Feed(Generic[T]):
    """A list that grows at its end; any number of tasks wait for an item of their choice."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: list[T] = []
        self.ended = False
        self._news = trio.Event()

    def put(self, item: T) -> None:
        """Append *item* and wake who waits."""
        self.items.append(item)
        self._wake()

    def end(self) -> None:
        """No more items will come."""
        self.ended = True
        self._wake()

    async def first(self, wanted: Callable[[T], bool], start: int = 0) -> T:
        """Return the first item from index *start* on that is *wanted*; raises FeedEnded."""
        looked_at = start
        while True:
            for item in self.items[looked_at:]:
                if wanted(item):
                    return item
            looked_at = max(start, len(self.items))
            if self.ended:
                tail = "\n".join(f"  {item}" for item in self.items[-15:])
                raise FeedEnded(f"{self.name}: ended without what was waited for; its last words:\n{tail}")
            await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


async def read_lines(stream: trio.abc.ReceiveStream, feed: Feed[str]) -> None:
    """Put each line of *stream* into *feed* until it ends or breaks, and close it; line ends are cut off."""
    rest = b""
    # A program that is killed breaks its streams, which is an end like any other.
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            async for chunk in stream:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    feed.put(line.decode(errors="replace").rstrip("\r"))
    if rest:
        feed.put(rest.decode(errors="replace").rstrip("\r"))
    feed.end()


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise LabError("... not within ... s") when the block takes longer than *seconds*."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise LabError(f"{what}: not within {seconds:g} s")


async def first_of(*tasks: Callable[[], Awaitable[object]]) -> None:
    """Run all *tasks*, return when the first one is done and the others are cancelled."""

    async def run(task: Callable[[], Awaitable[object]]) -> None:
        await task()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(run, task)
