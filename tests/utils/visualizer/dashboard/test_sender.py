"""The background sender, against servers that fail; test_dashboard.py has a real one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.utils.visualizer.dashboard.visdom_server import free_port, wait_for
from utils.visualizer.dashboard import sender

LOSS = ("main", "Loss")
Answer = Callable[[socket.socket, bytes], None]


def receive(client: socket.socket) -> bytes:
    """A whole request; empty at the end of the connection."""
    request = b""
    while piece := client.recv(2**20):
        request += piece
        head, end, body = request.partition(b"\r\n\r\n")
        if end and len(body) == int(head.lower().partition(b"content-length:")[2].split()[0]):
            return request
    return b""


@contextmanager
def fake_server(answer: Answer) -> Iterator[int]:
    """The port of a server that reads a request and lets `answer` do the rest, again and again."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(client: socket.socket) -> None:
        with client, suppress(OSError):
            while request := receive(client):
                answer(client, request)

    def run() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def reply(client: socket.socket, text: str, status: str = "200 OK") -> None:
    client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())


def healthy(client: socket.socket, request: bytes) -> None:
    reply(client, "Loss" if request.startswith(b"POST /events") else "true")


def pour(client: socket.socket, data: bytes) -> None:
    """Send without end; what one connection took at most is in `poured`."""
    taken = 0
    while True:
        taken += client.send(data)
        poured.append(taken)


poured: list[int] = []


def endless_body(client: socket.socket, request: bytes) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    pour(client, b"x" * 2**20)


def endless_head(client: socket.socket, request: bytes) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    pour(client, b"x: y\r\n" * 2**16)


def large_body(client: socket.socket, request: bytes) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
    pour(client, b"x" * 2**20)


@pytest.mark.parametrize("answer", [endless_body, endless_head, large_body])
def test_answer_without_end(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(sender, "REQUEST_SECONDS", 5.0)
    with fake_server(answer) as port:
        poured.clear()
        background = sender.Sender(port, "main")
        background.put(LOSS, lambda: {"data": []})
        wait_for(said)
        assert not background.close(3)
    assert max(poured, default=0) < 16 * 2**20  # the system takes some, too
    (line,) = said()
    assert "what answers there is no Visdom server" in line


def test_nothing_on_the_port_says_how_to_start_a_server(said: Callable[[], list[str]]) -> None:
    port = free_port()
    background = sender.Sender(port, "main")
    wait_for(said)
    time.sleep(0.3)  # several tries
    assert not background.close(1)
    (line,) = said()
    assert f"python -m utils.visualizer serve --port {port}" in line
    assert f"http://localhost:{port}/env/main" in line


def test_silence_is_no_reason_to_start_a_server(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(sender, "REQUEST_SECONDS", 0.2)
    with fake_server(lambda client, request: time.sleep(60)) as port:
        background = sender.Sender(port, "main")
        wait_for(said)
        background.close(1)
    (line,) = said()
    assert "did not answer within 0.2 s; trying on" in line and "Start" not in line


def test_what_was_on_its_way_when_the_server_failed_is_sent_again(
    said: Callable[[], list[str]],
) -> None:
    requests: list[bytes] = []

    def answer(client: socket.socket, request: bytes) -> None:
        if request.startswith(b"POST /events"):
            requests.append(request)
            if len(requests) == 1:
                client.close()
                return
        healthy(client, request)

    with fake_server(answer) as port:
        background = sender.Sender(port, "main")
        background.put(LOSS, lambda: {"data": []})
        wait_for(lambda: len(requests) == 2)
        assert background.close(5)
    connected, lost, again = said()
    assert f"connected: http://localhost:{port}/env/main" in connected
    assert "closed the connection; trying on" in lost and "connected again" in again


def test_server_that_takes_no_windows_is_reported(said: Callable[[], list[str]]) -> None:
    # One that asks for a login answers every request with an error.
    with fake_server(lambda client, request: reply(client, "", "400 Bad Request")) as port:
        background = sender.Sender(port, "main")
        background.put(LOSS, lambda: {"data": []})
        wait_for(said)
        background.close(5)
    assert len(said()) == 1 and "login" in said()[0]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_window_that_cannot_be_sent_is_said_once(
    number: float, said: Callable[[], list[str]]
) -> None:
    sent: list[bytes] = []

    def answer(client: socket.socket, request: bytes) -> None:
        sent.append(request)
        healthy(client, request)

    with fake_server(answer) as port:
        background = sender.Sender(port, "main")
        for _ in range(3):
            background.put(("main", "broken"), lambda: {"data": [number]})
            time.sleep(0.1)
        background.put(LOSS, lambda: {"data": []})
        wait_for(lambda: any(b'"Loss"' in request for request in sent))
        background.close(5)
    assert ["'broken'" in line for line in said()] == [False, True]


def test_a_save_touches_the_environment_before(said: Callable[[], list[str]]) -> None:
    # A server that was restarted would else write "null" over the environment's file.
    requests: list[str] = []

    def answer(client: socket.socket, request: bytes) -> None:
        requests.append(request.split()[1].decode())
        healthy(client, request)

    with fake_server(answer) as port:
        background = sender.Sender(port, "main")
        background.put(LOSS, lambda: {"data": []}, saves=True)
        assert background.close(5)
    place = requests.index("/save")
    assert requests[place - 1] == "/win_exists" and requests.count("/save") == 1
