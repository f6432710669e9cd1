"""Train, validate and test DeepLabV3 / DeepLabV3+ on Cityscapes, VOC, your own images, or shapes.

    python main.py @recipes/shapes.txt                  # no data needed; options from a file
    python main.py --dataset cityscapes --data_root DIR --model deeplabv3plus_hrnetv2_48
    python main.py --dataset folder --data_root DIR --check_data    # what is in the files?
    python main.py ... --continue_training              # go on exactly where the run stopped
    python main.py ... --ckpt FILE --test_only          # validate only

A run writes latest_<model>_<dataset>_os<N>.pth and best_... to --output_dir, and beside them the
folder <model>_<dataset>_os<N>: options.json, history.jsonl, curves.png, confusion.png, samples/ and
results/. All options: python main.py --help. What a run consists of is built in utils/run.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from tqdm import tqdm

from metrics import StreamSegMetrics
from network.inference import folded, labels_from_logits, low_res_logits
from network.summary import models_table
from utils import checkpoint, distributed, options, report
from utils.data import check_data
from utils.engine import Standing, grouped, train_mode, training_network
from utils.errors import exit_code, explain, with_batch
from utils.options import command_line, resume_command
from utils.run import Run, prepare
from utils.runtime.precision import AUTOCAST_DTYPES
from utils.signals import StopSignal
from utils.visualizer import Progress, Trackers, plain_warnings

# Runs are ranked by this. The predecessor's "Mean IoU" counts a class that never occurs as 0 as
# soon as a single pixel is taken for it.
SCORE = "Mean IoU (classes in ground truth)"


def gradients(run: Run, net: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Add up the gradients of one step's batches; returns this process's share of the loss.

    The loss is divided by what is labelled in all batches of all processes, so that neither their
    number nor where the labels are changes anything.
    """
    world, criterion, total = run.world, run.criterion, torch.zeros((), device=run.world.device)
    batches = [(images, labels.to(world.device, non_blocking=True)) for images, labels in batches]
    count = world.sum(sum(criterion.count(labels) for _, labels in batches))
    for number, (images, labels) in enumerate(batches, 1):
        with world.shares_gradients(net, number == len(batches)):
            with run.autocast():
                outputs = net(run.network_input(images))
            loss = criterion(outputs, labels, count=count)
            run.update.scaler.scale(loss * world.size).backward()  # DDP takes the mean
        total += loss.detach()
    return total


def train(run: Run, trackers: Trackers, progress: Progress, stop: StopSignal) -> None:
    """Train from the present step to --total_itrs, validating and saving on the way."""
    opts, optim, world, update = run.opts.run, run.opts.optim, run.world, run.update
    standing = Standing.of(run.saved if opts.continue_training else {})
    step, total, losses = standing.step, optim.total_itrs, []
    if standing.num_worse >= (optim.early_stop or total):
        world.say(f"no better since step {standing.best}: for more give a larger --early_stop")
        return
    net = training_network(run.model, step, optim=optim, world=world)
    sampler, loader = run.train_loader(step)
    for batches in progress.track(grouped(loader, optim.grad_accumulation)):
        if step == optim.freeze_backbone_itrs > 0:
            net = training_network(run.model, step, optim=optim, world=world)
        step, lr = step + 1, update.lr
        update.guard.before_step()
        losses.append(gradients(run, net, batches))
        update(step, losses[-1])
        progress.count(sum(len(images) for images, _ in batches) * world.size)

        signalled = world.any(stop.name is not None)
        stops = signalled or step == total
        is_val = step == total or step % opts.val_interval == 0
        is_save = stops or is_val or step % (opts.save_interval or opts.val_interval) == 0
        if is_save or step % opts.print_interval == 0:
            with with_batch(run, sampler):
                num_bad = update.guard.poll()
            values = {"loss": report.mean_loss(world, losses), "lr": lr, **progress.speed()}
            losses = []
            progress.report(step, values, num_bad=num_bad)
            trackers.scalars(step, values)
        report.say_skipped(run, "train", at_step=step)
        if is_save:
            score = validate(run, step, trackers) if is_val else None
            is_best = standing.rank(step, score) or (is_val and not run.files.best.exists())
            is_last = stops or standing.num_worse >= (optim.early_stop or total)
            save(run, standing, is_best=is_best, is_last=is_last)
            train_mode(run.model, step, optim=optim)
            progress.restart()
            if is_last:
                report.say_skipped(run, "train")
                break
    if step < total:
        why = f"{stop.name or 'a signal'} came" if signalled else f"no better since {standing.best}"
        more = "" if signalled else ", with a larger --early_stop"
        world.say(f"stopped after step {step} of {total}: {why}; to go on{more}:")
        world.say(resume_command(run.command, processes=world.local_size))


def save(run: Run, standing: Standing, *, is_best: bool, is_last: bool) -> None:
    """Write the latest checkpoint, and before it the best if this is it; every process calls.

    A full disk costs this checkpoint, not the run, unless it is the ``is_last``.
    """
    rng_states = run.world.gather(checkpoint.rng_state())
    if not run.world.is_main:
        return
    state = run.state(standing, rng_states)
    if not checkpoint.is_finite(state):
        text = f"the weights are NaN or infinite at step {standing.step}"
        if is_last:
            raise FloatingPointError(f"{text}: not saved, the checkpoints from before stay")
        report.say(f"not saved: {text}")
        return
    try:
        if is_best:
            checkpoint.save(state, run.files.best)
        checkpoint.save_latest(state, run.files, keep=run.opts.run.keep_checkpoints)
    except OSError as error:
        if is_last:
            raise
        report.say(f"not saved: {error}; the checkpoints from before are whole, training goes on")


def validate(run: Run, step: int, trackers: Trackers) -> float:
    """Score the model on the validation set and report it; returns what runs are ranked by."""
    world, tile, begin = run.world, run.opts.run.val_tile, time.perf_counter()
    metrics = StreamSegMetrics(len(run.class_names), class_names=run.class_names)
    sums = torch.zeros(2, dtype=torch.float64)  # of the loss, and what divides it
    world.share_buffers(run.update.ema.model)
    model = folded(run.update.ema.model, conv_dtype=AUTOCAST_DTYPES.get(run.opts.optim.precision))
    hidden = None if world.is_main else True
    torch.backends.cudnn.benchmark = run.opts.data.crop_val  # whole images have many sizes
    for samples in tqdm(run.val_loader, desc="validation", leave=False, disable=hidden):
        for _, same_size in groupby(samples, key=lambda sample: sample[1].shape):
            indices, *pair = zip(*same_size, strict=True)
            images, labels = map(torch.stack, pair)
            with run.autocast(), torch.inference_mode():
                inputs, targets = run.network_input(images), labels.to(world.device)
                logits = low_res_logits(model, inputs, tile=tile)
                predictions = labels_from_logits(logits, targets.shape[1:])
                count = run.criterion.count(targets)
                sums += torch.stack([run.criterion(logits, targets) * count, count]).cpu()
            metrics.update(targets, predictions)
            for index, *parts in zip(indices, images, labels, predictions.cpu(), strict=True):
                report.show_sample(run, step, trackers, index, *parts)
    metrics.all_reduce()
    sums = sums if world.size == 1 else world.sum(sums.to(world.device))  # MPS has no float64
    report.say_skipped(run, "val")
    if world.is_main:
        loss = (sums[0] / sums[1]).item()
        report.report_validation(run, step, trackers, metrics, loss, time.perf_counter() - begin)
    return metrics.get_results()[SCORE]


def execute(run: Run) -> None:
    """Test or train, and say where things are."""
    opts, world = run.opts, run.world
    report.announce(run)
    world.wait()  # until all have checked; now the main process writes
    trackers = report.start_trackers(run)
    done = run.saved.get("cur_itrs", 0) if opts.run.continue_training else 0
    quiet = opts.run.test_only or not world.is_main
    progress = Progress(opts.optim.total_itrs, start=done, quiet=quiet)
    try:
        if opts.run.test_only:
            validate(run, run.saved.get("cur_itrs", 0), trackers)
        else:
            with StopSignal() as stop:
                train(run, trackers, progress, stop)
            report.say_where(run)
    finally:
        progress.close()
        trackers.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    opts = options.parse_main(argv)
    plain_warnings()
    if opts.model.list_models:
        print(models_table())
        return 0
    run = None
    try:
        if opts.data.check_data:
            return check_data(opts)
        run = prepare(opts, command_line(argv))
        execute(run)
    except KeyboardInterrupt:
        saved = run is not None and run.files.latest.exists()
        hint = "go on with --continue_training" if saved else "nothing was saved yet"
        print(f"main.py: interrupted; {hint}", file=sys.stderr)
        return 130
    except Exception as error:
        line = explain(error, run)
        if line is None:
            raise
        if line:
            print(f"main.py: error: {line}", file=sys.stderr)
        return exit_code(error)
    finally:
        distributed.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
