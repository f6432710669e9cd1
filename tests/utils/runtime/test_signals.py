"""Real signals to this process and to loader workers of another one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from utils.runtime.signals import NAMES, StopSignal, ignore_interrupts

ROOT = Path(__file__).parents[3]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@posix
@pytest.mark.parametrize("name", NAMES)
def test_a_signal_is_noted_and_the_handlers_are_restored(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert stop.name is None
        os.kill(os.getpid(), number)
        assert stop.name == name
    assert signal.getsignal(number) is before


@posix
def test_a_second_interrupt_stops_at_once_but_the_first_signal_keeps_its_name() -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored where a script started the tests with &
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.name == "SIGTERM"
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@posix
@pytest.mark.parametrize("name", NAMES)
def test_a_signal_that_was_ignored_stays_ignored(name: str) -> None:
    """nohup ignores SIGHUP, `command &` in a script SIGINT."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), number)
            assert stop.name is None
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@posix
def test_a_forked_child_dies_of_the_signal() -> None:
    with StopSignal() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert stop.name is None


def test_nothing_is_installed_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def run() -> None:
        with StopSignal() as stop:
            seen.append((stop.name, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


# The whole process group gets each signal, as from a terminal, torchrun or Slurm, while workers
# are at work; then the run reads on, and ends. What a worker prints would be on stderr.
LOADER = """
import os, signal, subprocess, time
from torch.utils.data import DataLoader
from datasets.loader.loaders import start_worker
from utils.runtime.signals import StopSignal

class Slow:
    def __len__(self): return 40
    def __getitem__(self, index):
        time.sleep(0.01)
        return index

if __name__ == "__main__":
    seen = []
    with StopSignal() as stop:
        options = dict(num_workers=2, persistent_workers=True, worker_init_fn=start_worker)
        loader = DataLoader(Slow(), batch_size=2, **options)
        for number, batch in enumerate(loader):
            seen += batch.tolist()
            if number == 5:
                kill = ["kill", "-s", "NAME"[3:], "--", f"-{os.getpgrp()}"]
                subprocess.run(kill, start_new_session=True, check=True)
        assert stop.name == "NAME", stop.name
    assert seen == list(range(40))
    workers = loader._iterator._workers
    workers[0].terminate()  # of the parent, this one must end the worker
    workers[0].join(5)
    print("ended", workers[0].exitcode, flush=True)
    os._exit(0)
"""


def run_loader(name: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADER.replace("NAME", name)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    return done.returncode, done.stdout, done.stderr


@posix
@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the sender is not known here")
@pytest.mark.parametrize(
    "name",
    ["SIGTERM", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "SIGTERM")],
)
def test_workers_outlive_what_their_whole_group_gets(name: str) -> None:
    code, output, error = run_loader(name)
    assert (code, error) == (0, "")
    assert output == "ended 0\n"


@posix
@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the sender is not known here")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_worker_ends_when_its_parent_asks_however_it_was_started(method: str) -> None:
    """With a fork server, the system takes that server for the parent."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context, initializer=ignore_interrupts) as workers:
        pid = workers.submit(os.getpid).result(timeout=60)
        busy = workers.submit(time.sleep, 30)
        os.kill(pid, signal.SIGTERM)
        with pytest.raises(BrokenProcessPool):
            busy.result(timeout=60)
