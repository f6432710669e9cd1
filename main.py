"""Train, validate and test DeepLabV3 / DeepLabV3+ on Cityscapes, VOC or the built-in shapes.

    python main.py @recipes/shapes.txt                  # no data needed; options from a file
    python main.py --dataset cityscapes --data_root DIR --model deeplabv3plus_hrnetv2_48
    python main.py ... --continue_training              # go on exactly where the run stopped
    python main.py ... --ckpt FILE --test_only          # validate only

A run writes latest_<model>_<dataset>_os<N>.pth and best_... to --output_dir, and beside them the
folder <model>_<dataset>_os<N>: options.json, history.jsonl, curves.png, confusion.png, samples/ and
results/. All options: python main.py --help. What a run consists of is built in utils/run.py.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Sequence
from itertools import groupby

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import datasets
import network
from datasets.loader import TrainSampler, train_loader, val_loader
from metrics import StreamSegMetrics
from network.inference import predict_labels
from utils import checkpoint, options
from utils.progress import Progress, plain_warnings
from utils.report import report_validation, show_sample, start_trackers
from utils.run import Run, prepare
from utils.visualizer import Trackers

# Runs are ranked by this. The predecessor's "Mean IoU" counts a class that never occurs as 0 as
# soon as a single pixel is taken for it.
SCORE = "Mean IoU (classes in ground truth)"


def batches(run: Run, start_step: int) -> DataLoader:
    """This process's training batches from ``start_step`` to the end."""
    sampler = TrainSampler(
        len(run.train_set),
        run.opts.data.batch_size,
        seed=run.opts.run.random_seed,
        start_step=start_step,
        total_steps=run.opts.optim.total_itrs,
        rank=run.world.rank,
        world_size=run.world.size,
    )
    return train_loader(
        run.train_set,
        sampler,
        num_workers=run.opts.data.num_workers,
        pin_memory=run.world.device.type == "cuda",
    )


def train(run: Run, trackers: Trackers, progress: Progress) -> None:
    """Train from the present step to --total_itrs, validating and saving on the way."""
    opts, world, device, optimizer = run.opts, run.world, run.world.device, run.optimizer
    total, step, best_score = opts.optim.total_itrs, 0, 0.0
    if opts.run.continue_training:
        step, best_score = run.saved["cur_itrs"], float(run.saved.get("best_score", 0))
        world.say(f"continuing at step {step} of {total}" + ", its end" * (step == total))
    model = world.wrap(run.model)
    loss_sum, num_summed = torch.zeros((), device=device), 0
    model.train()
    for images, labels in progress.track(batches(run, step)):
        step += 1
        with run.autocast():
            logits = model(run.network_input(images))
            loss = run.criterion(logits, labels.to(device, non_blocking=True))
        loss.backward()
        lr = optimizer.param_groups[-1]["lr"]
        optimizer.step()
        optimizer.zero_grad()
        run.scheduler.step()
        progress.count(len(images) * world.size)
        loss_sum, num_summed = loss_sum + loss.detach(), num_summed + 1

        is_val = step == total or step % opts.run.val_interval == 0
        is_save = is_val or step % (opts.run.save_interval or opts.run.val_interval) == 0
        if is_save or step % opts.run.print_interval == 0:
            values = {"loss": world.mean(loss_sum / num_summed).item()}
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(f"the loss is {values['loss']} at step {step}")
            values |= {"lr": lr, **progress.speed()}
            progress.report(step, values)
            trackers.scalars(step, values)
            loss_sum, num_summed = torch.zeros((), device=device), 0
        if is_save:
            score = validate(run, step, trackers) if is_val else -math.inf
            is_best = score > best_score or (is_val and not run.files.best.exists())
            best_score = score if score > best_score else best_score  # a NaN is no best
            save(run, step, best_score, is_best=is_best)
            model.train()
            progress.pause()


def save(run: Run, step: int, best_score: float, *, is_best: bool) -> None:
    """Write the latest checkpoint, and before it the best if this is it; every process calls."""
    rng_states = run.world.gather(checkpoint.rng_state())
    if run.world.is_main:
        state = run.state(step, best_score, rng_states)
        for path in [run.files.best] * is_best + [run.files.latest]:
            checkpoint.save(state, path)


def validate(run: Run, step: int, trackers: Trackers) -> float:
    """Score the model on the validation set and report it; returns what runs are ranked by."""
    opts, world, begin = run.opts, run.world, time.perf_counter()
    metrics = StreamSegMetrics(len(run.class_names), class_names=run.class_names)
    indices = range(world.rank, len(run.val_set), world.size)
    loader = val_loader(
        run.val_set,
        indices,
        batch_size=opts.data.val_batch_size or (4 if opts.data.crop_val else 1),
        num_workers=opts.data.num_workers,
        pin_memory=world.device.type == "cuda",
    )
    world.share_buffers(run.model)
    run.model.eval()
    coming = iter(indices)
    for pairs in tqdm(
        loader, desc="validation", leave=False, disable=None if world.is_main else True
    ):
        for _, same_size in groupby(pairs, key=lambda pair: pair[0].shape):
            images, labels = map(torch.stack, zip(*same_size, strict=True))
            with run.autocast():
                predictions = predict_labels(run.model, run.network_input(images))
            metrics.update(labels.to(world.device), predictions)
            for image, *ids in zip(images, labels, predictions.cpu(), strict=True):
                show_sample(run, step, trackers, next(coming), image, *(i.numpy() for i in ids))
    metrics.all_reduce()
    scores = metrics.get_results()
    if world.is_main:
        report_validation(run, step, trackers, metrics, time.perf_counter() - begin)
    return scores[SCORE]


def execute(run: Run) -> None:
    """Test or train, and say where things are."""
    opts, world = run.opts, run.world
    kind = f"{torch.cuda.get_device_name(world.device)}" if world.device.type == "cuda" else "cpu"
    for note in run.notes:
        world.say(note)
    num_train = f"{len(run.train_set)} images to train on, " if run.train_set else ""
    world.say(
        f"{opts.model.model}: {sum(p.numel() for p in run.model.parameters()):,} parameters, "
        f"{len(run.class_names)} classes, output stride {run.model.build_args['output_stride']}\n"
        f"{opts.data.dataset}: {num_train}{len(run.val_set)} to validate\n"
        f"torch {torch.__version__} on {kind}, {world.size} process(es)"
    )
    world.wait()  # until all have checked; now the main process writes
    trackers = start_trackers(run)
    done = run.saved.get("cur_itrs", 0) if opts.run.continue_training else 0
    quiet = opts.run.test_only or not world.is_main
    progress = Progress(opts.optim.total_itrs, start=done, quiet=quiet)
    try:
        if opts.run.test_only:
            validate(run, run.saved.get("cur_itrs", 0), trackers)
        else:
            train(run, trackers, progress)
            world.say(
                f"checkpoints {run.files.latest}, {run.files.best}\npictures in {run.files.folder}"
            )
    finally:
        progress.close()
        trackers.close()
        world.close()


def explain(error: BaseException) -> str:
    """One line for the user on what ended the run, or "" where a traceback helps more."""
    if isinstance(error, datasets.DataError | OSError):
        return datasets.data_error_line(error)
    if isinstance(error, FloatingPointError):
        return f"{error}; lower --lr, or see --warmup_itrs"
    if isinstance(error, RuntimeError) and re.search("out of memory|can't allocate", str(error)):
        return "out of memory; use a smaller --batch_size, --crop_size or --val_batch_size"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    opts = options.parse_main(argv)
    plain_warnings()
    if opts.model.list_models:
        print(network.models_table(markdown=opts.model.markdown))
        return 0
    run = None
    try:
        run = prepare(opts, options.command_line(argv))
        execute(run)
    except KeyboardInterrupt:
        saved = run is not None and run.files.latest.exists()
        hint = "go on with --continue_training" if saved else "nothing was saved yet"
        print(f"main.py: interrupted; {hint}", file=sys.stderr)
        return 130
    except Exception as error:
        # While preparing, these are what the user got wrong; later they would be our mistakes.
        mistake = isinstance(error, ValueError | OSError) and run is None
        line = str(error) if mistake else explain(error)
        if not line:
            raise
        print(f"main.py: error: {line}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
