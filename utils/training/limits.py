"""Refuses, before anything is read, what this machine certainly has no room for."""

from __future__ import annotations

from datasets.loader import PREFETCH, default_num_workers
from utils import options
from utils.runtime import limits
from utils.runtime.console import size_text
from utils.runtime.distributed import World


def check_machine(opts: options.Options, *, world: World) -> None:
    """Raise ValueError if the loader processes or the batches on their way are too many.

    What a GPU has room for depends on the network; there it shows in the first step.
    """
    data, several = opts.data, opts.optim.grad_accumulation
    asked = data.num_workers
    num_workers = default_num_workers(world.local_size) if asked is None else asked
    # Those of training stay while those of validation work.
    processes = num_workers * world.local_size * (1 if opts.run.test_only else 2)
    if processes > (allowed := limits.process_limit()):
        raise ValueError(
            f"--num_workers {num_workers}: the run needs {processes} loader processes, but the "
            f"system allows only {allowed:.0f} more; use a smaller --num_workers"
        )
    if opts.run.test_only:
        return
    # Fetched ahead, and collected for one step.
    batches = min(num_workers * PREFETCH + several, opts.optim.total_itrs * several)
    each = 4 * data.crop_size**2 * (data.batch_size // world.size)  # an RGB image and its label
    needed = batches * each * world.local_size
    if needed > (free := limits.memory_limit()):
        raise ValueError(
            f"--batch_size {data.batch_size}, --crop_size {data.crop_size}: {batches} batches on "
            f"their way to training need {size_text(needed)}, but only {size_text(free)} of memory "
            "are free; use smaller ones, or a smaller --num_workers or --grad_accumulation"
        )
