"""Signals that ask a run to stop: noted here, and obeyed by the training loop between two steps.

This module needs the standard library alone, so that programs can import it first.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Slurm sends SIGUSR1 ahead of a time limit (--signal=USR1@60), and a closed connection SIGHUP.
# Windows has neither.
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it


def end_on_interrupt() -> None:
    """Until `one_interrupt` is entered, Ctrl-C ends the program at once, with one line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    # Not through sys.stderr, which may be in the middle of a line itself.
    os.write(2, f"{os.path.basename(sys.argv[0])}: interrupted\n".encode(errors="replace"))
    os._exit(INTERRUPTED)


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt once; while that is handled, others change nothing.

    So several in quick succession can't interrupt the answer to the first one.
    """
    before, pid, came = signal.getsignal(signal.SIGINT), os.getpid(), False

    def raise_once(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if os.getpid() != pid:  # a forked child; its parent speaks
            os._exit(INTERRUPTED)
        if not came:
            came = True
            raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGINT, raise_once)
    try:
        yield
    finally:  # a program that has ended its work only has to leave
        signal.signal(signal.SIGINT, signal.SIG_IGN if before is _end else before)


class StopSignal:
    """While it is entered, `name` is the name of the first stop signal that came, or None.

    A second SIGINT does at once what SIGINT did before. A signal that was ignored stays ignored,
    as nohup and `command &` in a script want it. Outside the main thread nothing is done.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}  # the handlers that were set
        self._pid = 0
        self._interrupts = 0

    def __enter__(self) -> StopSignal:
        self._pid = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked child inherited the handler: let it end
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                before = self._before[number]
                (before if callable(before) else signal.default_int_handler)(number, frame)
                return
        self.name = self.name or signal.Signals(number).name


def ignore_interrupts() -> None:
    """Keep a loader's worker process alive when its whole process group is asked to stop.

    Ctrl-C in a terminal, torchrun and Slurm signal the whole group, but the run needs its workers
    until it has saved. SIGTERM from the parent still ends the worker, since that is how torch ends
    one that hangs.
    """
    for name in NAMES:
        if name != "SIGTERM" and hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS and Windows do not say who sent a signal
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, name="sigterm", daemon=True).start()


def _end_with_parent() -> None:
    # Not os.getppid(), which is the server that forks the workers where Python starts them so.
    parent = multiprocessing.parent_process()
    pid = os.getppid() if parent is None else parent.pid
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != pid:
        pass
    os._exit(0)  # as torch's own handler in a worker does
