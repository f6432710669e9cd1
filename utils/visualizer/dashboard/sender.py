"""A thread that sends to a Visdom server, so that a slow or absent server never delays training."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote

from utils.runtime.console import say

HOST = "127.0.0.1"
DEFAULT_PORT = 13570  # the predecessor's --vis_port
REQUEST_SECONDS = 2.0  # a server that needs longer for an answer counts as gone
PAUSE_SECONDS = 1.0  # the pause between two rounds of sending
PROBE_SECONDS = 5.0  # with nothing to send, how often to check that the server still has it all
MAX_ANSWER = 2**16  # bytes; an answer is the name of a window or a short list
NO_VISDOM = "what answers there is no Visdom server"

Window = tuple[str, str]  # environment, name
Message = dict[str, Any]  # a window as the server's endpoint `events` takes it
Job = Callable[[], Message]  # makes the window when it is sent


class Unreachable(Exception):
    """The server does not answer, or not as a Visdom server does."""


class Refused(Unreachable):
    """Nothing listens on the port."""


class Connection:
    """A connection on which requests are sent, one after the other.

    A server that was restarted has closed it: so it shows a restart.
    """

    def __init__(self, port: int) -> None:
        self._http = HTTPConnection(HOST, port, timeout=REQUEST_SECONDS)
        self._http.auto_open = 0
        try:
            self._http.connect()
        except OSError as error:
            raise _failure(error) from error

    def post(self, endpoint: str, body: bytes) -> str:
        """Send `body`; returns the answer."""
        try:
            self._http.request("POST", f"/{endpoint}", body)
            with self._http.getresponse() as answer:
                text = answer.read(MAX_ANSWER)
        except (OSError, HTTPException) as error:
            raise _failure(error) from error
        if answer.status >= 400:
            login = "; does it require a login?" if answer.status < 500 else ""
            raise Unreachable(f"it answered with status {answer.status}{login}")
        if len(text) == MAX_ANSWER:
            raise Unreachable(NO_VISDOM)
        return text.decode(errors="replace")

    def close(self) -> None:
        self._http.close()


def _failure(error: Exception) -> Unreachable:
    match error:
        case ConnectionRefusedError():
            return Refused("nothing listens there")
        case TimeoutError():
            return Unreachable(f"it did not answer within {REQUEST_SECONDS:g} s")
        case OSError():
            return Unreachable("it closed the connection")
    return Unreachable(NO_VISDOM)


def url_of(port: int, env: str) -> str:
    """Where a browser shows the environment."""
    return f"http://localhost:{port}/env/{quote(env)}"


def port_option(port: int) -> str:
    """What commands end with if the port is not the default one."""
    return "" if port == DEFAULT_PORT else f" --port {port}"


def require_server(port: int) -> None:
    """Raise ValueError if nothing listens on the port."""
    try:
        Connection(port).close()
    except Refused:
        raise ValueError(
            f"there is no Visdom server on port {port}; start one with: "
            f"python -m utils.visualizer serve{port_option(port)}"
        ) from None
    except Unreachable:
        pass  # it may answer later


class Sender:
    """A daemon thread that sends the newest state of each window to the server.

    Only this thread talks to the server, so the caller never waits for the network. Memory use is
    bounded by the number of windows. After a restart of the server, all windows are sent again.
    """

    def __init__(self, port: int, env: str) -> None:
        self._port, self._env = port, env
        self._jobs: dict[Window, Job] = {}
        self._pending: dict[Window, None] = {}  # used as an ordered set
        self._saves = False  # whether the server shall write its windows to disk
        self._connection: Connection | None = None
        self._reported: set[object] = set()
        self._is_lost = False  # whether the last thing said was that the server is not there
        self._lock = threading.Lock()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._wake.set()  # so that a missing server is reported at the start
        self._thread = threading.Thread(target=self._run, name="visdom", daemon=True)
        self._thread.start()

    def put(self, window: Window, job: Job, *, saves: bool = False) -> None:
        """Send `window` soon; `job` replaces an older one for this window that is still waiting.

        With `saves` the server then writes the environments to disk.
        """
        with self._lock:
            self._jobs[window] = job
            self._pending[window] = None
            self._saves = self._saves or saves
        self._wake.set()

    def close(self, limit: float) -> bool:
        """Send what is pending, for at most `limit` seconds; whether the server has everything."""
        self._closed.set()
        self._wake.set()
        self._thread.join(limit)
        is_idle = not (self._thread.is_alive() or self._pending or self._saves)
        return is_idle and self._connection is not None

    def _say(self, topic: object, text: str) -> bool:
        """Print the text unless something was said on that topic before; whether it was printed."""
        if topic in self._reported:
            return False
        self._reported.add(topic)
        say(f"dashboard: {text}", error=True)
        return True

    def _say_lost(self, error: Unreachable) -> None:
        if isinstance(error, Refused):
            text = (
                f"there is no Visdom server on port {self._port}; training continues. "
                f"Start one with: python -m utils.visualizer serve{port_option(self._port)}; "
                f"it will show the run at {url_of(self._port, self._env)}"
            )
        else:
            text = f"the server on port {self._port}: {error}; trying on"
        if self._say(type(error), text):
            self._is_lost = True

    def _run(self) -> None:
        while True:
            self._wake.wait(PROBE_SECONDS)
            self._wake.clear()
            closing = self._closed.is_set()  # read before sending, so that nothing is missed
            try:
                self._connect()
                self._send_pending()
                self._save()
            except Unreachable as error:
                self._say_lost(error)
                self._disconnect()
            if closing:
                return
            self._closed.wait(PAUSE_SECONDS)

    def _connect(self) -> None:
        if self._connection is None:
            self._connection = Connection(self._port)
            self._exists((self._env, ""))  # a Visdom server answers this
        if self._is_lost or Connection not in self._reported:
            self._reported.add(Connection)
            again = " again" if self._is_lost else ""
            self._is_lost = False
            say(f"dashboard: connected{again}: {url_of(self._port, self._env)}", error=True)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._all_pending()
        self._wake.set()

    def _post(self, endpoint: str, message: Mapping[str, Any]) -> str:
        assert self._connection is not None
        return self._connection.post(endpoint, json.dumps(message, allow_nan=False).encode())

    def _exists(self, window: Window) -> bool:
        return self._post("win_exists", {"win": window[1], "eid": window[0]}) == "true"

    def _all_pending(self) -> None:
        with self._lock:
            self._pending = dict.fromkeys(self._jobs)

    def _send_pending(self) -> None:
        with self._lock:
            sent = next((window for window in self._jobs if window not in self._pending), None)
        if sent and not self._exists(sent):  # somebody has cleared the environment
            self._all_pending()
        with self._lock:
            jobs = [(window, self._jobs[window]) for window in self._pending]
            self._pending = {}
        for window, job in jobs:
            try:
                answer = self._post("events", {**job(), "win": window[1], "eid": window[0]})
            except Unreachable:
                raise
            except Exception as error:  # no error of a dashboard may end the training
                self._say(window, f"cannot show {window[1]!r}: {error}")
                continue
            if answer != window[1]:
                raise Unreachable("it does not accept windows; does it require a login?")

    def _save(self) -> None:
        """Let the server write its windows to disk, if that was asked for."""
        with self._lock:
            saves, self._saves = self._saves, False
            windows = {window[0]: window for window in self._jobs}
        if not saves:
            return
        try:
            for env, window in windows.items():
                # A server that was restarted reads an environment when it is first asked for one
                # of its windows; a save before that would replace the file with "null".
                self._exists(window)
                self._post("save", {"data": [env]})
        except Exception:
            self._saves = True
            raise
