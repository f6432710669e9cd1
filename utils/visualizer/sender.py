"""A thread that sends to a Visdom server, so that a slow or absent server never delays training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from utils.runtime.console import say

if TYPE_CHECKING:  # Visdom is optional and slow to import, so the thread imports it
    from visdom import Visdom

REQUEST_SECONDS = 2.0  # a server that needs longer to answer counts as gone
PAUSE_SECONDS = 1.0  # the pause between two rounds of sending
PROBE_SECONDS = 5.0  # with nothing to send, how often to check whether the server was restarted
INSTALL = (
    "install Visdom with: pip install 'setuptools>=77.0.3,<81' && "
    "pip install --no-build-isolation -r requirements-visdom.txt"
)

Window = tuple[str, str]  # environment, name
Job = Callable[["Visdom"], str]  # sends a window; returns the server's answer, which is its name


class Unreachable(Exception):
    """The server does not answer, or not as a Visdom server does."""


def _connect(port: int, env: str) -> Visdom:
    """A client that never waits long and that raises errors, unlike Visdom's own."""
    import requests
    from visdom import Visdom

    class Client(Visdom):
        session: requests.Session  # Visdom sets it

        def _handle_post(self, url: str, data: str | None = None) -> str:
            self.session.trust_env = False  # the server is on this machine, so use no proxy
            try:
                answer = self.session.post(url, data=data or {}, timeout=REQUEST_SECONDS)
            except requests.RequestException as error:
                raise Unreachable(type(error).__name__) from error
            if answer.status_code >= 400:
                raise ValueError(f"the server answered with status {answer.status_code}")
            return answer.text

    logging.getLogger("visdom").setLevel(logging.ERROR)  # its warnings are about our settings
    try:
        return Client("http://127.0.0.1", port=port, env=env, use_incoming_socket=False)
    except ValueError as error:
        raise Unreachable(str(error)) from error


class Sender:
    """A daemon thread that sends the newest state of each window to the server.

    Only this thread talks to the server, so the caller never waits for the network. Memory use is
    bounded by the number of windows. After a restart of the server, all windows are sent again.
    """

    def __init__(self, port: int, env: str) -> None:
        self._port, self._env = port, env
        self._jobs: dict[Window, Job] = {}
        self._pending: dict[Window, None] = {}  # used as an ordered set
        self._reported: set[object] = set()
        self._lock = threading.Lock()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._wake.set()  # so that a missing server is reported at the start
        self._thread = threading.Thread(target=self._run, name="visdom", daemon=True)
        self._thread.start()

    def put(self, window: Window, job: Job) -> None:
        """Send `window` soon; `job` replaces an older one for this window that is still waiting."""
        with self._lock:
            self._jobs[window] = job
            self._pending[window] = None
        self._wake.set()

    def close(self, limit: float) -> None:
        """Send what is pending, for at most `limit` seconds."""
        self._closed.set()
        self._wake.set()
        self._thread.join(limit)
        if self._thread.is_alive():
            self._say_unreachable("no answer")

    def _say(self, topic: object, text: str) -> None:
        if topic not in self._reported:
            self._reported.add(topic)
            say(text, error=True)

    def _say_unreachable(self, reason: str) -> None:
        self._say(
            Unreachable,
            f"--enable_vis: there is no Visdom server on port {self._port} ({reason}); training "
            f"continues. Start a server with: visdom -port {self._port} -bind_local",
        )

    def _run(self) -> None:
        client = None
        while True:
            self._wake.wait(PROBE_SECONDS)
            self._wake.clear()
            closing = self._closed.is_set()  # read before sending, so that nothing is missed
            try:
                client = client or _connect(self._port, self._env)
                self._send_pending(client)
            except ImportError as error:
                self._say(ImportError, f"--enable_vis: no dashboard ({error}); {INSTALL}")
                return
            except (Unreachable, ValueError) as error:
                self._say_unreachable(str(error))
                client = None
                self._all_pending()
                self._wake.set()
            if closing:
                return
            self._closed.wait(PAUSE_SECONDS)

    def _all_pending(self) -> None:
        with self._lock:
            self._pending = dict.fromkeys(self._jobs)

    def _send_pending(self, client: Visdom) -> None:
        with self._lock:
            sent = next((window for window in self._jobs if window not in self._pending), None)
        if sent and client.win_exists(sent[1], sent[0]) is False:
            self._all_pending()  # the server was restarted
        while True:
            with self._lock:
                window = next(iter(self._pending), None)
                if window is None:
                    return
                del self._pending[window]
                job = self._jobs[window]
            try:
                answer = job(client)
            except Unreachable:
                raise
            except Exception as error:  # no error of a dashboard may end the training
                self._say(window, f"--enable_vis: cannot show {window[1]!r}: {error}")
                continue
            if answer != window[1]:
                raise Unreachable("it does not accept windows; does it require a login?")
