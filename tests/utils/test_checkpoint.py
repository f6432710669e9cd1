from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from utils import checkpoint
from utils.optimizer import create_optimizer
from utils.scheduler import create_scheduler


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 3)
        self.classifier = nn.Linear(3, 2)


def build(optimizer: str = "sgd", lr: float = 0.1, total: int = 10, weight_decay: float = 0.0):
    model = Parts()
    made = create_optimizer(
        optimizer, model, lr=lr, backbone_lr_mult=0.1, weight_decay=weight_decay
    )
    return model, made, create_scheduler("poly", made, total_itrs=total, step_size=5)


def trained(steps: int, **settings):
    model, optimizer, scheduler = build(**settings)
    for _ in range(steps):
        model.classifier(model.backbone(torch.ones(1, 3))).sum().backward()
        optimizer.step()
        scheduler.step()
    return model, optimizer, scheduler


def state_after(steps: int, **settings) -> dict:
    _, optimizer, scheduler = trained(steps, **settings)
    return {
        "optimizer_state": optimizer.state_dict(),
        "scheduler_state": scheduler.state_dict(),
        "cur_itrs": steps,
    }


def test_the_backbone_learns_at_a_tenth_and_the_order_is_the_predecessors() -> None:
    model, optimizer, _ = build()
    backbone, head = optimizer.param_groups
    assert (backbone["lr"], head["lr"]) == (pytest.approx(0.01), 0.1)
    assert [p is q for p, q in zip(backbone["params"], model.backbone.parameters(), strict=True)]
    assert optimizer.defaults["momentum"] == 0.9


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new folder" / "latest.pth"
    checkpoint.save({"step": 1}, path)

    def full_disk(state: object, file) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save({"step": 2}, path)
    assert torch.load(path) == {"step": 1}
    assert [file.name for file in path.parent.iterdir()] == ["latest.pth"]


def test_resume_restores_moments_position_and_generators_but_keeps_the_settings_asked_for() -> None:
    saved = state_after(4)
    torch.manual_seed(3)
    saved["rng"] = [checkpoint.rng_state()]
    expected = torch.rand(3)
    _, optimizer, scheduler = build(total=20, weight_decay=0.5)
    changed = ["--total_itrs was 10, is now 20"]
    notes = checkpoint.resume(
        saved, "x.pth", optimizer=optimizer, scheduler=scheduler, changed_options=changed
    )
    assert notes == changed
    assert torch.equal(torch.rand(3), expected)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.1 * (1 - 4 / 20) ** 0.9)
    assert optimizer.param_groups[1]["weight_decay"] == 0.5
    assert len(optimizer.state) == 4


def test_a_scheduler_saved_one_step_behind_is_set_right() -> None:
    saved = state_after(4)
    saved["scheduler_state"]["last_epoch"] = 3  # as the predecessor saved it
    _, optimizer, scheduler = build()
    notes = checkpoint.resume(
        saved, "x.pth", optimizer=optimizer, scheduler=scheduler, changed_options=[]
    )
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.1 * (1 - 4 / 10) ** 0.9)
    assert "no generator state" in notes[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda saved: saved.pop("optimizer_state"), "holds no optimizer_state"),
        (lambda saved: saved.update(state_after(1, optimizer="adamw")), "does not suit SGD"),
    ],
)
def test_a_file_that_cannot_be_continued_is_an_error(change, expected: str) -> None:
    saved = state_after(2)
    change(saved)
    _, optimizer, scheduler = build()
    with pytest.raises(ValueError, match=expected):
        checkpoint.resume(
            saved, "x.pth", optimizer=optimizer, scheduler=scheduler, changed_options=[]
        )


def test_other_threads_are_said() -> None:
    saved = state_after(1) | {"num_threads": 77, "rng": [checkpoint.rng_state()]}
    _, optimizer, scheduler = build()
    notes = checkpoint.resume(
        saved, "x.pth", optimizer=optimizer, scheduler=scheduler, changed_options=[]
    )
    assert len(notes) == 1 and "77 threads" in notes[0]


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
    going_on = "--continue_training" in str(refused.value)
    assert going_on == left.startswith("latest_")
