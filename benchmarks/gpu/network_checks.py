"""Checks of what happens around a step: inference, scores, several processes, the whole program."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import main
import network
import predict
from benchmarks.gpu.common import CPU, agree, batch, distance, gradients, small_model
from metrics import StreamSegMetrics
from network.inference import folded, low_res_logits, predict_labels
from utils import options
from utils.loss import Criterion
from utils.runtime.distributed import World
from utils.runtime.memory import is_out_of_memory
from utils.runtime.signals import StopSignal
from utils.training.model import TrainingNetwork
from utils.training.prepare import prepare
from utils.utils import fix_bn
from utils.visualizer import Progress, Trackers, pictures

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


def folding(device: torch.device) -> str:
    """Folded BatchNorm gives the scores of the network as it was trained."""
    model, (images, _) = small_model().to(device).eval(), batch()
    inputs = model.normalize(images.to(device))
    with torch.inference_mode():
        found = distance(folded(model).low_res_logits(inputs), model.low_res_logits(inputs))
    return agree({"scores": found}, {"scores": 1e-3})


def labels(device: torch.device) -> str:
    """Predicted labels are those of the CPU, whole and in tiles."""
    results, (images, _) = [], batch(1, 128)
    for place in (CPU, device):
        model = folded(small_model().to(place))
        inputs = model.normalize(images.to(place))
        results.append([predict_labels(model, inputs, tile=tile).cpu() for tile in (None, 96)])
    equal = [float((one == two).double().mean()) for one, two in zip(*results, strict=True)]
    assert min(equal) > 0.99, equal
    return f"{100 * min(equal):.3f} % equal"


def scores(device: torch.device) -> str:
    """Counts on the device are those of NumPy, also of labels that are no class."""
    rng = np.random.default_rng(0)
    truth, found = rng.integers(-1, 30, (2, 64, 70)), rng.integers(0, 19, (2, 64, 70))
    truth[0, :9] = 255
    expected = np.zeros((19, 19), dtype=np.int64)
    valid = (truth >= 0) & (truth < 19)
    np.add.at(expected, (truth[valid], found[valid]), 1)
    for kind in (np.int16, np.int64):
        metrics = StreamSegMetrics(19)
        pair = (truth.astype(kind), found.astype(np.uint8))
        metrics.update(*(torch.from_numpy(values).to(device) for values in pair))
        assert np.array_equal(metrics.confusion, expected)
    return f"{expected.sum()} pixels"


def search(device: torch.device) -> str:
    """cuDNN's search for quick convolutions changes no scores."""
    model, (images, _) = folded(small_model().to(device)), batch(1)
    inputs = model.normalize(images.to(device))
    passes = [low_res_logits(model, inputs) for _ in range(8)]
    return agree({"scores": max(distance(p, passes[0]) for p in passes)}, {"scores": 1e-3})


def compiled(device: torch.device) -> str:
    """A compiled step has the gradients of the eager one."""

    def change(model: network.DeepLabV3) -> nn.Module:
        net = TrainingNetwork(model)
        # Making kernels for a CPU takes minutes; the gradients of a graph can be compared without.
        net.compile(backend="aot_eager" if device.type == "cpu" else "inductor")
        return net

    found = distance(gradients(device, change=change)[1], gradients(device)[1])
    return agree({"gradients": found}, {"gradients": 1e-2})


def activation_checkpointing(device: torch.device) -> str:
    """Recomputed activations give the same gradients and the same BatchNorm statistics."""
    models: list[Any] = []

    def change(model: Any) -> nn.Module:
        model.backbone.recomputes = bool(models)
        models.append(model)
        return TrainingNetwork(model)

    expected, found = (gradients(device, change=change, train_bn=True)[1] for _ in range(2))
    pairs = zip(*(model.buffers() for model in models), strict=True)
    far = {  # of statistics that a second pass would have moved by a tenth
        "gradients": distance(found, expected),
        "statistics": max(distance(two, one) for one, two in pairs),
    }
    return agree(far, {"gradients": 1e-4, "statistics": 1e-5})


class Questions(TorchDispatchMode):
    """Counts the values that Python asks of tensors: each would wait for a GPU."""

    num = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        aten = torch.ops.aten
        self.num += func in (aten._local_scalar_dense.default, aten.nonzero.default)
        return func(*args, **(kwargs or {}))


class Numbers(TorchFunctionMode):
    """Counts calls of `torch.where` with a number, which it copies to a GPU, and waits."""

    num = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.where, torch.Tensor.where):
            self.num += not all(isinstance(arg, torch.Tensor) for arg in args)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_wait(device: torch.device, *, allowed: int) -> Iterator[None]:
    """Nothing within may wait for the GPU; on a CPU, `allowed` questions may be asked."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    with Questions() as questions, Numbers() as numbers:
        yield
    assert questions.num <= allowed, f"{questions.num} questions, not {allowed}"
    assert not numbers.num, f"torch.where got a number {numbers.num} times"


class Watched(Progress):
    """Lets a run make some steps freely, then some without a wait, and then ends it."""

    def __init__(self, device: torch.device, *, free: int, watched: int) -> None:
        super().__init__(1, quiet=True)
        self.device, self.free, self.watched = device, free, watched

    def track(self, batches: Iterable[T]) -> Iterator[T]:
        waiting = super().track(batches)
        for _ in range(self.free):
            yield next(waiting)
        ready = [next(waiting) for _ in range(self.watched)]
        # Without a fused optimizer, as on a CPU, each step asks whether it was bad.
        with no_wait(self.device, allowed=self.watched):
            yield from ready


WAIT_FREE = {
    "bf16": ["--precision", "bf16", "--ema", "0.9", "--clip_grad_norm", "1"],
    "fp16": ["--precision", "fp16", "--grad_accumulation", "2"],
    "losses": ["--loss_type", "cross_entropy,focal_loss,ohem,dice", "--activation_checkpointing"],
}


def no_host_wait(device: torch.device) -> str:
    """The loop of main.py does not wait for the device between two prints."""
    for name, more in WAIT_FREE.items():
        if device.type == "cpu" and name == "fp16":
            continue  # its convolutions take seconds there
        run = prepare(options.parse_main([*shapes(device, "nowhere"), *more]), "a command")
        progress = Watched(device, free=3, watched=4)
        with contextlib.redirect_stdout(io.StringIO()), StopSignal() as stop:
            main.train(run, Trackers(), progress, stop)
    return ", ".join(WAIT_FREE)


def shapes(device: torch.device, output_dir: str) -> list[str]:
    """The command of a small run on the built-in data set."""
    small = "--dataset shapes --model deeplabv3plus_mobilenet --pretrained none --crop_size 64"
    short = "--batch_size 2 --total_itrs 20 --num_workers 0 --val_interval 20 --print_interval 20"
    return f"{small} {short} --device {device} --output_dir {output_dir}".split()


def program(device: torch.device) -> str:
    """main.py trains, continues and tests, and predict.py predicts, in every arithmetic."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
        images = Path(folder, "images")
        images.mkdir()
        for number, pixels in enumerate(batch(3)[0].permute(0, 2, 3, 1).numpy()):
            pictures.save_image(images / f"{number}.png", pixels)
        for precision in ("fp32", "tf32", "bf16") + ("fp16",) * (device.type == "cuda"):
            output = Path(folder, precision)
            command = [*shapes(device, str(output)), "--precision", precision, "--ema", "0.9"]
            command += ["--num_workers", "2", "--crop_val", "--total_itrs"]
            assert main.main([*command, "2"]) == 0, said.getvalue()
            assert main.main([*command, "4", "--continue_training"]) == 0, said.getvalue()
            (ckpt,) = output.glob("latest_*os16.pth")
            place = ["--input", str(images), "--ckpt", str(ckpt), "--output", str(output / "masks")]
            assert predict.main([*place, "--device", str(device)]) == 0
            assert len(list((output / "masks").glob("*.png"))) == 3
    return "trained, continued, predicted"


def two_processes(device: torch.device) -> str:
    """Two processes with half a batch each have the gradients of one; on one GPU, over gloo."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.gpu.network_checks", str(device)]
        started = [
            subprocess.Popen(
                [*command, str(rank), str(Path(folder, "store"))],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    return agree({"gradients": max(map(float, outputs))}, {"gradients": 1e-3})


def one_of_two(device: torch.device, rank: int, store: str) -> float:
    """How far the shared gradients are from those of the whole batch in one process."""
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(store, 2))
    world = World(rank, 2, device, local_size=2)
    images, targets = batch()
    results = []
    for part in (slice(None), slice(2 * rank, 2 * rank + 2)):
        model = small_model().to(device).train()
        if not world.sync_batchnorm:
            fix_bn(model)
        net = TrainingNetwork(model) if part == slice(None) else world.wrap(TrainingNetwork(model))
        criterion = Criterion("cross_entropy").to(device)
        count = criterion.count(targets.to(device))
        outputs = net(model.normalize(images[part].to(device)))
        factor = 1 if part == slice(None) else world.size
        (factor * criterion(outputs, targets[part].to(device), count=count)).backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        results.append(torch.cat(grads))
    world.share_buffers(model)
    return distance(results[1], results[0])


def out_of_memory(device: torch.device) -> str:
    """A failed allocation is told from other errors."""
    try:
        torch.empty(2**50, dtype=torch.uint8, device=device)
    except RuntimeError as error:
        assert is_out_of_memory(error), error
        return type(error).__name__
    raise AssertionError("a petabyte was there")


CHECKS = (
    folding,
    labels,
    scores,
    search,
    activation_checkpointing,
    no_host_wait,
    out_of_memory,
    two_processes,
    program,
    compiled,
)
SLOW_ON_CPU = {"two_processes", "program", "compiled"}  # seconds there

if __name__ == "__main__":
    place, own_rank, own_store = sys.argv[1:]
    print(one_of_two(torch.device(place), int(own_rank), own_store))
