"""A checkpoint is saved whole or not at all, and an earlier run's is not overwritten unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from utils.runtime import checkpoint

ADAM = torch.ones(2, 3)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new folder" / "latest.pth"
    checkpoint.save({"cur_itrs": 1}, path)

    def full_disk(state: object, file) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save({"cur_itrs": 2}, path)
    assert torch.load(path) == {"cur_itrs": 1}
    assert [file.name for file in path.parent.iterdir()] == ["latest.pth"]


@pytest.mark.parametrize(
    "left", ["latest_r.pth", "latest_r.1.pth", "best_r.pth", "r/history.jsonl"]
)
def test_an_earlier_run_is_not_overwritten_unasked(tmp_path: Path, left: str) -> None:
    files = checkpoint.RunFiles(tmp_path, "r")
    files.refuse_overwriting()
    path = tmp_path / left
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(ValueError, match="--overwrite.*--output_dir") as refused:
        files.refuse_overwriting()
    resumable = "--continue_training" in str(refused.value)
    assert resumable == left.startswith("latest_")


class Questions(TorchDispatchMode):
    """Counts the values that Python asks of tensors; on a GPU each waits for the device."""

    num = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.num += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("place", ["model_state", "ema_state"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), None])
def test_one_question_tells_whether_all_weights_are_finite(place: str, bad: float | None) -> None:
    state = {
        kind: {f"{number}.weight": torch.full((3, 2), 3e38) for number in range(20)}
        | {"counter": torch.tensor(7), "half": torch.ones(1, dtype=torch.float16)}
        for kind in ("model_state", "ema_state")
    }
    if bad is not None:
        state[place]["13.weight"][2, 1] = bad
    with Questions() as questions:
        assert checkpoint.is_finite(state) is (bad is None)
    assert questions.num == 1
    del state["ema_state"]
    assert checkpoint.is_finite(state) is (bad is None or place == "ema_state")


@pytest.mark.parametrize(
    ("moments", "adaptive", "fit"),
    [
        ({}, False, True),
        ({"momentum_buffer": None}, False, True),
        ({"momentum_buffer": torch.zeros(2, 3)}, False, True),
        ({"momentum_buffer": torch.zeros(3)}, False, False),
        ({"momentum_buffer": 1.0}, False, False),
        ({"momentum_buffer": torch.full((2, 3), torch.nan)}, False, False),
        ({"momentum_buffer": torch.zeros(2, 3, dtype=torch.int8)}, False, False),
        ({"exp_avg": torch.zeros(2, 3)}, False, False),
        ({}, True, True),
        ({"momentum_buffer": torch.zeros(2, 3)}, True, False),
        ({"step": 3.0, "exp_avg": torch.zeros(2, 3)}, True, False),
        ({"step": 3.0, "exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.ones(2, 3)}, True, True),
        ({"step": torch.ones(9), **dict.fromkeys(("exp_avg", "exp_avg_sq"), ADAM)}, True, False),
        ({"step": torch.tensor(2.0), **dict.fromkeys(("exp_avg", "exp_avg_sq"), ADAM)}, True, True),
    ],
)
def test_moments_of_an_optimizer(moments: dict[str, object], adaptive: bool, fit: bool) -> None:
    assert checkpoint.moments_fit(moments, torch.ones(2, 3), adaptive=adaptive) is fit
