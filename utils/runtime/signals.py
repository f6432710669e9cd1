"""Signals that ask a run to stop: noted here, and obeyed by the training loop between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# Slurm sends SIGUSR1 ahead of a time limit (--signal=USR1@60). Windows has no SIGUSR1.
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


class StopSignal:
    """While it is entered, `name` is the name of the first stop signal that came, or None.

    A second SIGINT raises KeyboardInterrupt at once. Outside the main thread nothing is done.
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
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
                raise KeyboardInterrupt
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
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)  # as torch's own handler in a worker does
