from __future__ import annotations

from collections.abc import Callable

import numpy as np

from utils.visualizer import Trackers

CALLS = ["scalars", "table", "confusion", "samples", "image", "text", "close"]


class Recorder:
    """A tracker that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls.append(name)


def use(tracker: Trackers) -> None:
    tracker.scalars(1, {"loss": 1.0})
    tracker.table("t", 1, [{"a": 1}])
    tracker.confusion(1, np.zeros((2, 2), np.int64), ["a", "b"])
    tracker.samples(1, [], ["a", "b"], np.zeros((256, 3), np.uint8))
    tracker.image("a", 1, np.zeros((2, 2, 3), np.uint8))
    tracker.text("o", {"a": 1})
    tracker.close()


def test_trackers_pass_everything_on_and_an_empty_one_does_nothing() -> None:
    recorders = Recorder(), Recorder()
    use(Trackers(*recorders))
    use(Trackers())
    for recorder in recorders:
        assert recorder.calls == CALLS


def test_files_that_somebody_damaged_cost_a_line_and_no_run(capsys) -> None:
    class Damaged(Recorder):
        def scalars(self, step: int, values: dict) -> None:
            raise ValueError("history.jsonl line 2 holds 'loss', which is not a number")

    Trackers(Damaged()).scalars(1, {"loss": 1.0})
    assert capsys.readouterr().err == (
        "could not write: history.jsonl line 2 holds 'loss', which is not a number; "
        "the run continues\n"
    )
