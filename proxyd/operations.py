"""The commands of the control socket, as functions on a running daemon. What each means: ``docs/operations.md``."""

from __future__ import annotations

import math
import time
from importlib.metadata import version
from typing import Any, Protocol

from proxyd.control.protocol import ControlError, ErrorKind
from proxyd.control.server import Command
from proxyd.endpoint import ListenEndpoint
from proxyd.ports import Ports
from proxyd.relay.listener import Sessions
from proxyd.relay.outcome import Ending, Outcome
from proxyd.snapshot import Snapshot
from proxyd.temporary_routes import TemporaryRoutes


class Operated(Protocol):
    """What of a running daemon the commands need: :class:`proxyd.daemon.Daemon`."""

    snapshot: Snapshot
    sessions: Sessions
    ports: Ports
    temporary: TemporaryRoutes
    started: float
    last_reload_error: str | None

    @property
    def draining(self) -> bool:
        """Whether it takes no more connections."""

    async def add_route(self, table: dict[str, Any], *, once: bool, expires_s: float | None) -> ListenEndpoint:
        """Open a temporary route."""

    async def reload(self) -> bool:
        """Whether the configuration that was read again is in force."""

    def drain(self) -> None:
        """Begin to end."""


def commands(daemon: Operated) -> dict[str, Command]:
    """Each command's name, and what it does to ``daemon``."""
    operations = Operations(daemon)
    return {
        "status": operations.status,
        "drain": operations.drain,
        "reload": operations.reload,
        "abort": operations.abort,
        "route-add": operations.route_add,
        "route-list": operations.route_list,
        "route-remove": operations.route_remove,
    }


class Operations:
    """Every command takes its arguments as a dictionary and returns a dictionary, or raises ControlError."""

    def __init__(self, daemon: Operated) -> None:
        self._daemon = daemon

    async def status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the daemon is and does."""
        _only(arguments, ())
        daemon = self._daemon
        return {
            "proxyd": version("proxyd"),
            "uptime_s": round(time.monotonic() - daemon.started, 1),
            "config": str(daemon.snapshot.config.path),
            "last_reload_error": daemon.last_reload_error,
            "draining": daemon.draining,
            "routes": self._routes(),
            "migrations": [session.facts() for session in daemon.sessions if session.is_main],
            "connections": len(daemon.sessions),
            "recent": list(daemon.sessions.recent),
        }

    def _routes(self) -> list[dict[str, Any]]:
        return [*self._daemon.ports.describe(), *self._daemon.temporary.describe()]

    async def drain(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take no more connections, and end when the last one has ended."""
        _only(arguments, ())
        self._daemon.drain()
        return {"connections": len(self._daemon.sessions)}

    async def reload(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Read the configuration again: whole, or not at all."""
        _only(arguments, ())
        if not await self._daemon.reload():
            raise ControlError(ErrorKind.BAD_INPUT, f"nothing changed: {self._daemon.last_reload_error}")
        return {"routes": self._routes()}

    async def abort(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """End a migration that is not past its commit point; its source resumes the guest."""
        ident = _text(arguments, "id")
        _only(arguments, ("id",))
        session = self._daemon.sessions.find(ident)
        if session is None:
            raise ControlError(ErrorKind.BAD_INPUT, f"the id of a migration that runs expected, found {ident!r}")
        if not session.abandon(Ending(Outcome.ABORTED, "an operator ended it; the source resumes its guest")):
            message = f"{ident} is past its commit point: the guest may run on the destination already"
            raise ControlError(ErrorKind.REFUSED, message)
        return {"id": ident}

    async def route_add(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Open a temporary route; tells where it listens."""
        once = arguments.pop("once", False)
        expires_s = arguments.pop("expires_s", None)
        if not isinstance(once, bool):
            raise ControlError(ErrorKind.BAD_INPUT, f"once: true or false expected, found {once!r}")
        if expires_s is not None and not (isinstance(expires_s, int | float) and 0 < expires_s < math.inf):
            raise ControlError(ErrorKind.BAD_INPUT, f"expires_s: seconds above 0 expected, found {expires_s!r}")
        name = _text(arguments, "name")
        listen = await self._daemon.add_route(arguments, once=once, expires_s=expires_s)
        return {"name": name, "listen": str(listen)}

    async def route_list(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Every route, those of the configuration first."""
        _only(arguments, ())
        return {"routes": self._routes()}

    async def route_remove(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Close a temporary route."""
        name = _text(arguments, "name")
        _only(arguments, ("name",))
        self._daemon.temporary.remove(name)
        return {"name": name}


def _text(arguments: dict[str, Any], key: str) -> str:
    value = arguments.get(key)
    if not isinstance(value, str):
        raise ControlError(ErrorKind.BAD_INPUT, f"{key}: a text expected, found {value!r}")
    return value


def _only(arguments: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in arguments:
        if key not in keys:
            raise ControlError(ErrorKind.BAD_INPUT, f"{key}: unknown argument (accepted: {', '.join(keys) or 'none'})")
