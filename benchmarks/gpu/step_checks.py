"""Checks of a training step: its arithmetic, its loss, its optimizer, and how it goes on."""

from __future__ import annotations

import copy
import io
import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.gpu.common import CPU, NAN, NUM_CLASSES, agree, distance, gradients
from utils.loss import LOSSES, Criterion
from utils.optimizer import create_optimizer
from utils.runtime.distributed import World
from utils.scheduler import StepLR
from utils.training.ema import Ema
from utils.training.step import BadStepsError, OptimizerStep

# How far the gradients of a step may be from float64's. On a CPU: fp32 3e-7, bf16 0.03, fp16 0.01.
PRECISIONS = {"fp32": 1e-4, "tf32": 3e-2, "bf16": 0.15, "fp16": 0.05}


def precisions(device: torch.device) -> str:
    """A training step in each arithmetic against float64 on the CPU."""
    loss, expected = gradients(CPU, dtype=torch.float64)
    found = {}
    for precision in PRECISIONS:
        if precision in ("tf32", "fp16") and device.type == "cpu":
            continue  # it has no such arithmetic, or a very slow one
        value, gradient = gradients(device, precision)
        assert abs(value - loss) < 0.01 * loss
        found[precision] = distance(gradient, expected)
    return agree(found, PRECISIONS)


def losses(device: torch.device) -> str:
    """Each loss and its gradient against float64 on the CPU."""
    generator, found = torch.Generator().manual_seed(0), dict[str, float]()
    scores = torch.randn(2, NUM_CLASSES, 24, 24, generator=generator)
    labels = torch.randint(NUM_CLASSES + 1, (2, 96, 96), generator=generator).byte()
    labels[labels == NUM_CLASSES] = 255
    for name in LOSSES:
        results = []
        for place, dtype in ((CPU, torch.float64), (device, torch.float32)):
            own = scores.to(place, dtype).detach().requires_grad_()
            value = Criterion(name).to(place)(own, labels.to(place))
            value.backward()
            assert own.grad is not None
            results.append(torch.cat([value[None], own.grad.flatten()]))
        found[name] = distance(results[1], results[0])
    return agree(found, dict.fromkeys(found, 1e-3))


class Parts(nn.Module):
    """The smallest network that has all kinds of parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
        self.classifier = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(images))


class Trainer:
    """Some steps of `Parts`, with the optimizer as main.py has it on this device."""

    def __init__(self, name: str, device: torch.device, *, fp16: bool = False) -> None:
        self.model = cast(Any, Parts().to(device).to(memory_format=torch.channels_last))
        self.optimizer = create_optimizer(
            name, self.model, lr=0.1, backbone_lr_mult=0.1, weight_decay=0.1, fused=True
        )
        self.update = OptimizerStep(
            self.model,
            self.optimizer,
            StepLR(self.optimizer, 10**6),
            world=World(0, 1, device),
            max_bad_steps=3,
            scaler=torch.amp.GradScaler(device.type, enabled=fp16),
            max_norm=1.0,
        )

    def step(self, number: int, *, loss: float = 0.0, grad: float = 0.0) -> None:
        self.update.before_forward()
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(number))
        images = images.to(self.update.world.device)
        value = (self.model(images) - images[:, :2, 1:-1, 1:-1]).square().mean() + loss
        self.update.backward(value)
        self.model.classifier.bias.grad += grad
        self.update.update(number, value)

    def state(self) -> list[Tensor]:
        moments = self.optimizer.state_dict()["state"].values()
        values = [torch.as_tensor(v).cpu() for state in moments for v in state.values()]
        return [*(v.cpu().clone() for v in self.model.state_dict().values()), *values]


def optimizers(device: torch.device) -> str:
    """Fused updates are those of the CPU, and a bad step leaves no trace."""
    found = {}
    for name in ("sgd", "adamw"):
        ours, plain = Trainer(name, device), Trainer(name, CPU)
        ours.step(100, loss=NAN)  # the first, when there are no moments yet
        for number in range(3):
            ours.step(number)
            plain.step(number)
            before = copy.deepcopy(ours.state())
            ours.step(200 + number, **{("loss", "grad")[number % 2]: NAN})
            assert all(map(torch.equal, before, ours.state()))
        assert ours.update.poll() == 4
        pairs = zip(ours.state(), plain.state(), strict=True)
        found[name] = max(distance(one, two) for one, two in pairs)
    return agree(found, dict.fromkeys(found, 1e-3))


def fp16_scale(device: torch.device) -> str:
    """Gradients that always overflow stop the run, and never reach the weights."""
    for name in ("sgd", "adamw"):
        ours = Trainer(name, device, fp16=True)
        ours.step(0)
        before = [parameter.clone() for parameter in ours.model.parameters()]
        for number in range(1, 100):
            ours.step(number, grad=(NAN, float("inf"))[number % 2])
        assert all(map(torch.equal, before, ours.model.parameters()))
        assert ours.update.scaler.get_scale() == 1
        try:
            ours.update.poll()
        except BadStepsError as error:
            assert "83 steps in a row, last in step 99" in str(error)
        else:
            raise AssertionError("99 bad gradients were not counted")
    return "83 of 99 bad gradients counted"


def resume(device: torch.device) -> str:
    """Own and the predecessor's optimizer states go on, whatever their layout."""
    found = {}
    for name, layout in itertools.product(("sgd", "adamw"), ("own", "predecessor")):
        whole, resumed, file = Trainer(name, device), Trainer(name, device), io.BytesIO()
        for number in range(2):
            whole.step(number)
        saved: Any = {"model": whole.model.state_dict(), **whole.update.entries(), "cur_itrs": 2}
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file, map_location="cpu", weights_only=True)
        if layout == "predecessor":
            for moments in saved["optimizer_state"]["state"].values():
                moments |= {key: value.contiguous() for key, value in moments.items()}
        resumed.model.load_state_dict(saved["model"])
        resumed.update.load(saved, source="a file")
        for number in range(2, 4):
            whole.step(number)
            resumed.step(number)
        pairs = zip(whole.state(), resumed.state(), strict=True)
        found[f"{name}, {layout}"] = max(distance(a, b) for a, b in pairs)
    return agree(found, dict.fromkeys(found, 1e-5))


def ema(device: torch.device) -> str:
    """The average on the device is the one worked out in float64 on the CPU."""
    model = Parts().to(device)
    average = Ema(model, 0.9)  # type: ignore[arg-type]  # it needs no more than parameters
    expected = [value.double().cpu().clone() for value in model.parameters()]
    for step in range(20):
        decay = min(0.9, (1 + step) / (10 + step))
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.add_(0.1 * (number + 1))
                expected[number].lerp_(parameter.double().cpu(), 1 - decay)
        average.update()
    pairs = zip(average.model.parameters(), expected, strict=True)
    return agree({"ema": max(distance(one, two) for one, two in pairs)}, {"ema": 1e-5})


CHECKS = (precisions, losses, optimizers, fp16_scale, resume, ema)
