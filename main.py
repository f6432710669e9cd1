"""Train, validate and test DeepLabV3 / DeepLabV3+ on Cityscapes, VOC, your own images, or shapes.

    python main.py @recipes/shapes.txt                  # no data needed; options from a file
    python main.py --dataset cityscapes --data_root DIR --model deeplabv3plus_hrnetv2_48
    python main.py --dataset folder --data_root DIR --check_data    # what is in the files?
    python main.py ... --continue_training              # continue exactly where the run stopped
    python main.py ... --ckpt FILE --test_only          # validate only

A run writes latest_<model>_<dataset>_os<N>.pth and best_... to --output_dir, and beside them the
folder <model>_<dataset>_os<N>: options.json, history.jsonl, curves.png, confusion.png, samples/ and
results/. All options: python main.py --help. utils/training/prepare.py builds a run.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports, so that Ctrl-C during them is one line, too
    from utils.runtime.signals import end_on_interrupt

    end_on_interrupt()

import argparse
import math
import sys
import time
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets import SegmentationDataset
from metrics import StreamSegMetrics
from network.inference import folded
from network.passes import labels_of_passes, logits_of_passes
from network.summary import models_table
from utils import options
from utils.runtime import distributed
from utils.runtime.console import say
from utils.runtime.lock import RunLock
from utils.runtime.precision import AUTOCAST_DTYPES
from utils.runtime.signals import StopSignal, one_interrupt
from utils.training import report
from utils.training.data import build_datasets, check_data, grouped
from utils.training.errors import explain
from utils.training.model import train_mode, training_network
from utils.training.prepare import prepare
from utils.training.run import Run, delete_what_is_replaced, save
from utils.training.step import TrainingState
from utils.training.step_report import report_step
from utils.visualizer import SCORE, Progress, Trackers, plain_warnings


def compute_gradients(run: Run, net: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Add up the gradients of one step's batches; returns this process's share of the loss.

    The loss is divided by the number of labeled pixels, or the sum of their class weights, in all
    batches of all processes. So the number of batches changes nothing, nor which of them holds the
    labels.
    """
    world, criterion, total = run.world, run.criterion, torch.zeros((), device=run.world.device)
    batches = [(images, labels.to(world.device, non_blocking=True)) for images, labels in batches]
    count = world.sum(torch.stack([criterion.count(labels) for _, labels in batches]).sum())
    for number, (images, labels) in enumerate(batches, 1):
        with world.shares_gradients(net, number == len(batches)):
            with run.autocast():
                outputs = net(run.network_input(images))
            loss = criterion(outputs, labels, count=count)
            run.optimizer_step.backward(loss)
        total += loss.detach()
    return total


def train(run: Run, trackers: Trackers, progress: Progress, stop: StopSignal) -> None:
    """Train from the present step to --total_itrs, validating and saving on the way."""
    opts, world, optimizer_step = run.opts, run.world, run.optimizer_step
    state = TrainingState.of(run.start.saved) if run.start.resumes else TrainingState()
    if state.validation_due:  # the run ended in the middle of it
        validate_and_save(run, state, trackers, is_saved=True)
    if stops_early(run, state):
        report.say_stopped(run, state, signal=None)
        return
    net = training_network(run.model, state.step, optim=opts.optim, world=world)
    loader, losses = run.data.train_loader(state.step), list[Tensor]()
    for batches in progress.track(grouped(loader, opts.optim.grad_accumulation)):
        if 0 < opts.optim.freeze_backbone_itrs == state.step:  # from now on the backbone learns
            net = training_network(run.model, state.step, optim=opts.optim, world=world)
        if state.step == 0:
            report.show_train_batch(run, trackers, *batches[0])
        state.step += 1
        rates = optimizer_step.learning_rates  # of this step; the schedule moves on at its end
        optimizer_step.before_forward()
        losses.append(compute_gradients(run, net, batches))
        optimizer_step.update(state.step, losses[-1])
        progress.count(sum(len(images) for images, _ in batches) * world.size)

        signaled = world.any(stop.name is not None)
        is_end = state.step == opts.optim.total_itrs
        state.validation_due = is_end or state.step % opts.run.val_interval == 0
        interval = opts.run.save_interval or opts.run.val_interval
        saves = signaled or state.validation_due or state.step % interval == 0
        if saves or state.step % opts.run.print_interval == 0:
            report_step(run, state, losses, rates, trackers, progress)
            losses = []
        report.say_skipped(run, "train", at_step=state.step)
        if saves:
            validates = state.validation_due
            is_saved = save(run, state, is_last=signaled and not validates)
            if validates:
                validate_and_save(run, state, trackers, is_saved=is_saved)
            train_mode(run.model, state.step, optim=opts.optim)
            progress.restart(validated=validates)
            if signaled or is_end or stops_early(run, state):
                report.say_skipped(run, "train")
                break
    if state.step < opts.optim.total_itrs:
        report.say_stopped(run, state, signal=(stop.name or "a signal") if signaled else None)


def validate_and_save(
    run: Run, state: TrainingState, trackers: Trackers, *, is_saved: bool
) -> None:
    """Validate, and save the result: whatever goes wrong here costs no training.

    `is_saved`: the latest checkpoint is of this step, and says that its validation is due.
    """
    is_best = state.update(validate(run, state.step, trackers)) or not run.files.best.exists()
    is_last = state.step == run.opts.optim.total_itrs or stops_early(run, state)
    save(run, state, is_last=is_last, is_best=is_best, replaces=is_saved)


def stops_early(run: Run, state: TrainingState) -> bool:
    return state.validations_since_best >= (run.opts.optim.early_stop or math.inf)


def validate(run: Run, step: int, trackers: Trackers) -> float:
    """Score the model on the validation set and report it; returns the score SCORE."""
    opts, world, begin = run.opts, run.world, time.perf_counter()
    class_names = run.data.class_names
    metrics = StreamSegMetrics(len(class_names), class_names=class_names)
    selection = report.start_selection(run)
    sums = torch.zeros(2, dtype=torch.float64)  # the loss times its divisor, and the divisor
    averaged = run.optimizer_step.ema.model
    world.share_buffers(averaged)
    model = folded(averaged, conv_dtype=AUTOCAST_DTYPES.get(opts.optim.precision))
    hidden = None if world.is_main else True  # None: hidden unless it is on a terminal
    scales, flip = (opts.run.scales, opts.run.flip) if opts.run.test_only else ((1.0,), False)
    for samples in tqdm(run.data.val_loader, desc="validation", leave=False, disable=hidden):
        for _, group in groupby(samples, key=lambda sample: sample[1].shape):
            same_size = list(group)
            images, labels = (  # pinned samples travel by themselves; a stack of them is not pinned
                torch.stack([s[part].to(world.device, non_blocking=True) for s in same_size])
                for part in (1, 2)
            )
            with run.autocast(), torch.inference_mode():
                inputs = run.network_input(images)
                passes = logits_of_passes(
                    model, inputs, tile=opts.run.val_tile, scales=scales, flip=flip
                )
                predictions = labels_of_passes(passes, (labels.shape[1], labels.shape[2]))
                count = run.criterion.count(labels)
                sums += torch.stack([run.criterion(passes[0], labels) * count, count]).cpu()
            for sample, label, predicted in zip(same_size, labels, predictions, strict=True):
                counts = metrics.update(label, predicted)
                report.look_at(run, selection, sample, predicted, counts)
    metrics.all_reduce()
    sums = sums if world.size == 1 else world.sum(sums.to(world.device))  # MPS has no float64
    report.say_skipped(run, "val")
    if world.is_main:
        loss = (sums[0] / sums[1]).item()
        seconds = time.perf_counter() - begin
        report.report_validation(run, step, trackers, metrics, loss, seconds, selection)
    return metrics.get_results()[SCORE]


def execute(run: Run) -> None:
    """Test or train, and say where the results are."""
    opts, world = run.opts, run.world
    report.announce(run)
    world.wait()  # until all processes have checked everything; from now on the main one writes
    if world.is_main and not opts.run.test_only:
        delete_what_is_replaced(run)
    trackers = report.start_trackers(run)
    quiet, hint = opts.run.test_only or not world.is_main, run.data.slow_data_hint
    progress = Progress(
        opts.optim.total_itrs,
        start=run.start.step,
        val_interval=opts.run.val_interval,
        quiet=quiet,
        hint=hint,
    )
    try:
        if opts.run.test_only:
            validate(run, run.start.saved.get("cur_itrs", 0), trackers)
        else:
            with StopSignal() as stop:
                train(run, trackers, progress, stop)
            progress.close()
            report.say_end(run)
    finally:
        progress.close()
        trackers.close()


def get_argparser() -> argparse.ArgumentParser:
    """The parser of the options, as in the predecessor."""
    return options.main_parser()


def get_dataset(opts: argparse.Namespace) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training and the validation set of parsed options; both give uint8 tensors."""
    sets = build_datasets(options.from_namespace(opts), world=distributed.ALONE)
    return sets["train"], sets["val"]


@one_interrupt()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    run, code, lock = None, 1, RunLock()
    try:
        opts = options.parse_main(argv)
        plain_warnings()
        if opts.model.list_models:
            say(models_table())
            return 0
        if opts.data.check_data:
            return check_data(opts)
        run = prepare(opts, options.command_line(argv), lock=lock)
        execute(run)
        code = 0
    except KeyboardInterrupt:
        saved = run is not None and run.files.latest.exists()
        hint = "continue with --continue_training" if saved else "nothing was saved yet"
        say(f"main.py: interrupted; {hint}", error=True)
        code = 130
    except Exception as error:
        line = explain(error, run)
        if line is None:
            raise
        if line:
            say(f"main.py: error: {line}", error=True)
        code = 1 if isinstance(error, FloatingPointError) else 2  # 2: a mistake of the user's
    finally:
        lock.release()
        distributed.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
