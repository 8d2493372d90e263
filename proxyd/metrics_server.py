"""The HTTP listener that Prometheus scrapes, in threads of its own: it answers even while the event loop is busy.

prometheus_client's own server has a thread for every connection, for as long as that lasts: clients that say nothing
would use up the threads that the service may have (``TasksMax=``), those that look up names included. Here threads and
times are bounded. A client that has not sent its request yet makes room for the next one.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from http.server import HTTPServer
from typing import Any, Final

from prometheus_client import CollectorRegistry, MetricsHandler

from proxyd.endpoint import Address
from proxyd.metrics import Metrics

# A Prometheus, perhaps two of them, and a person who looks.
MAX_CLIENTS: Final = 8

# Those of clients that had to make room end a moment later.
MAX_THREADS: Final = 2 * MAX_CLIENTS

# For a request to come, and for the answer to be taken: Prometheus's own default (scrape_timeout).
CLIENT_TIME_S: Final = 10.0

# A scraper that comes behind a crowd waits, rather than being refused.
BACKLOG: Final = 128

# For what was accepted before the end. In an upgrade the other process answers by then, and a scrape that this one has
# taken must not fail.
LAST_CLIENTS_S: Final = 1.0

# How often serve_forever looks at the clock, and at close().
_POLL_S: Final = 0.5


class _Client:
    """A connection that is being served, by a thread."""

    def __init__(self, connection: socket.socket) -> None:
        self.since = time.monotonic()
        self.asked = False  # the request is here
        self._connection = connection

    def end(self) -> None:
        """Its thread finds the connection closed."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class _Handler(MetricsHandler):
    # Between two bytes; what it takes altogether is the server's business.
    timeout = CLIENT_TIME_S

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        assert isinstance(self.server, _Server)  # noqa: S101
        self.registry = self.server.registry
        self.server.asked(self.connection)
        super().do_GET()


class _Server(HTTPServer):
    def __init__(self, sock: socket.socket, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._clients: dict[socket.socket, _Client] = {}
        self._threads = 0
        self._changed = threading.Condition()
        # The base class would bind a socket of its own, and look up this host's name, which can hang.
        super().__init__(sock.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def asked(self, connection: socket.socket) -> None:
        """Its request has come."""
        with self._changed:
            if connection in self._clients:
                self._clients[connection].asked = True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, if there is room for it or room can be made."""
        with self._changed:
            room = self._make_room() and self._changed.wait_for(lambda: self._threads < MAX_THREADS, CLIENT_TIME_S)
            if room:
                self._clients[request] = _Client(request)
                self._threads += 1
        if not room:
            self.shutdown_request(request)
            return
        thread = threading.Thread(target=self._serve, args=(request, client_address), name="metrics", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system gives us no thread
            self._done(request)

    def _make_room(self) -> bool:
        if len(self._clients) < MAX_CLIENTS:
            return True
        slow = next((connection for connection, client in self._clients.items() if not client.asked), None)
        if slow is not None:
            self._clients.pop(slow).end()
        return slow is not None

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            with suppress(OSError):  # the client is gone
                self.finish_request(request, client_address)
        finally:
            self._done(request)

    def _done(self, connection: socket.socket) -> None:
        self.shutdown_request(connection)
        with self._changed:
            self._clients.pop(connection, None)
            self._threads -= 1
            self._changed.notify()

    def service_actions(self) -> None:
        """Called by serve_forever now and then: end what has taken too long."""
        self.end_clients(older_than=CLIENT_TIME_S)

    def wait_for_clients(self, most_s: float) -> None:
        """Until all that were accepted are served, or so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._threads, most_s)

    def end_clients(self, *, older_than: float) -> None:
        """End connections that were accepted more than so many seconds ago."""
        late = time.monotonic() - older_than
        with self._changed:
            for client in self._clients.values():
                if client.since <= late:
                    client.end()


class MetricsServer:
    """The listener, from its making to :meth:`close`.

    A scrape reads numbers and takes the interpreter for some milliseconds. It never waits for a migration.

    :param adopted: a socket that listens there already.
    :raises OSError: the address cannot be bound.
    """

    def __init__(self, metrics: Metrics, listen: Address, adopted: socket.socket | None = None) -> None:
        self.listen = listen
        sock = _listening(listen) if adopted is None else adopted
        # Two processes may accept on it during an upgrade, and the slower one must not wait for the next scrape.
        sock.setblocking(False)
        self._server = _Server(sock, metrics.registry)
        self.address = Address(listen.host, self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics listener", daemon=True
        )
        self._thread.start()

    def fileno(self) -> int:
        """The descriptor of the listening socket."""
        return self._server.fileno()

    def close(self) -> None:
        """Take no more, and answer what is there. Blocks for as long as ``serve_forever`` polls (0.5 s), and for
        :data:`LAST_CLIENTS_S` if somebody is slow, so call it from a thread."""
        self._server.shutdown()
        self._server.server_close()
        self._server.wait_for_clients(LAST_CLIENTS_S)
        self._server.end_clients(older_than=0)
        self._thread.join()


def _listening(listen: Address) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in listen.host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((listen.host, listen.port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
