"""What certainly can't work is refused at once, with the figure."""

from __future__ import annotations

import pytest
import torch

from utils import options
from utils.runtime import limits
from utils.runtime.distributed import World
from utils.training.prepare import check_machine

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 GiB are free, and 100 processes may be started."""
    monkeypatch.setattr(limits, "memory_limit", lambda: 64 * 2**30)
    monkeypatch.setattr(limits, "process_limit", lambda: 100)


@pytest.mark.parametrize(
    ("given", "world", "expected"),
    [
        ("--num_workers 50", ALONE, None),
        ("--num_workers 51", ALONE, "needs 102 loader processes, but the system allows only 100"),
        ("--num_workers 100 --test_only", ALONE, None),
        ("--num_workers 26", World(0, 2, torch.device("cpu"), local_size=2), "needs 104"),
        # 4 bytes a pixel; 2 batches ahead in each loader process, and one in use.
        ("--num_workers 4 --batch_size 4 --crop_size 16384", ALONE, None),
        (
            "--num_workers 8 --batch_size 4 --crop_size 16384",
            ALONE,
            "17 batches on their way to training need 68.0 GiB, but only 64.0 GiB of memory",
        ),
        ("--num_workers 0 --batch_size 65536", ALONE, "1 batches on their way"),
        ("--num_workers 0 --batch_size 16 --grad_accumulation 65536", ALONE, "need 1028.0 GiB"),
        ("--num_workers 8 --batch_size 4 --crop_size 16384 --total_itrs 9", ALONE, None),
        ("--num_workers 9 --batch_size 4 --crop_size 16384 --test_only", ALONE, None),
    ],
)
def test_what_has_no_room_is_refused(given: str, world: World, expected: str | None) -> None:
    opts = options.parse_main(given.split())
    if expected is None:
        check_machine(opts, world=world)
        return
    with pytest.raises(ValueError) as caught:
        check_machine(opts, world=world)
    assert expected in str(caught.value) and "\n" not in str(caught.value)
