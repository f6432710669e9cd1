"""A bad step leaves no trace: the run with bad steps is the run without them, bit for bit."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from utils.optimizer import create_optimizer
from utils.runtime.distributed import World
from utils.scheduler import StepLR
from utils.training.step import BadStepsError, OptimizerStep

WORLD = World(0, 1, torch.device("cpu"))
NAN, INF = float("nan"), float("inf")


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.classifier = nn.Conv2d(4, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(images))


class Training:
    """Some steps of a small network; ``state`` is all that a step changes."""

    def __init__(self, name: str = "sgd", *, fused: bool = False, **settings) -> None:
        self.model = Parts()
        self.optimizer = create_optimizer(
            name, self.model, lr=0.1, backbone_lr_mult=0.1, weight_decay=0.1, fused=fused
        )
        settings = {"max_bad_steps": 2, "world": WORLD} | settings
        never = StepLR(self.optimizer, 10**6)  # keeps the learning rate
        self.optimizer_step = OptimizerStep(self.model, self.optimizer, never, **settings)

    def step(
        self, number: int, *, image: float = 0.0, loss: float = 0.0, grad: float = 0.0
    ) -> None:
        """One step; what is added to an image, the loss or a gradient may spoil it."""
        self.optimizer_step.before_forward()
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(number))
        images[0, 0, 0, 0] += image
        value = self.model(images).square().mean() + loss
        self.optimizer_step.backward(value)
        self.model.classifier.bias.grad += grad
        self.optimizer_step.update(number, value)

    def state(self) -> list[torch.Tensor]:
        moments = self.optimizer.state_dict()["state"].values()
        return [
            *self.model.state_dict().values(),
            *(torch.as_tensor(value) for state in moments for value in state.values()),
        ]


def assert_same(one: Training, two: Training) -> None:
    assert len(one.state()) == len(two.state())
    assert all(map(torch.equal, one.state(), two.state()))


KINDS = pytest.mark.parametrize(
    ("name", "fused"), [("sgd", False), ("sgd", True), ("adamw", False), ("adamw", True)]
)
SPOILED = [{"image": NAN}, {"image": INF}, {"loss": NAN}, {"loss": -INF}, {"grad": NAN}]


@KINDS
@pytest.mark.parametrize("spoiled", SPOILED, ids=str)
def test_the_run_with_bad_steps_is_the_run_without(name: str, fused: bool, spoiled: dict) -> None:
    good, bad = Training(name, fused=fused), Training(name, fused=fused)
    bad.step(100, **spoiled)  # the very first, when there is no momentum yet
    for number in range(3):
        good.step(number)
        bad.step(number)
        bad.step(200 + number, **spoiled)
    assert_same(good, bad)
    assert bad.optimizer_step.poll() == 4 and good.optimizer_step.poll() == 0
    assert all(parameter.grad is None for parameter in bad.model.parameters())
    changed = Training(name, fused=fused)
    assert not any(map(torch.equal, changed.model.parameters(), good.model.parameters()))


def test_fused_and_plain_updates_agree() -> None:
    runs = Training(fused=True), Training(fused=False)
    for run in runs:
        for number in range(4):
            run.step(number)
    for one, two in zip(*(run.model.parameters() for run in runs), strict=True):
        torch.testing.assert_close(one, two)


def test_several_forward_passes_in_a_bad_step_leave_the_statistics() -> None:
    run = Training()
    before = [buffer.clone() for buffer in run.model.buffers()]
    run.optimizer_step.before_forward()
    for image in (1.0, NAN, 2.0):
        loss = run.model(torch.full((2, 3, 6, 6), image)).mean()
    loss.backward()
    assert not torch.equal(run.model.backbone[1].num_batches_tracked, torch.tensor(0))
    run.optimizer_step.update(1, torch.tensor(NAN))
    assert all(map(torch.equal, before, run.model.buffers()))


def test_too_many_in_a_row_stop_the_run_and_name_the_last() -> None:
    run = Training()
    for number in (1, 2):
        run.step(number, loss=NAN)
    run.step(3)
    run.step(4, loss=NAN)
    assert run.optimizer_step.poll() == 3
    assert run.optimizer_step.poll() == 0
    run.step(5, loss=NAN)
    assert run.optimizer_step.poll() == 1
    run.step(6, loss=INF)
    run.step(7)  # a good one after the third in a row does not hide them
    with pytest.raises(BadStepsError, match="3 steps in a row, last in step 6; --max_bad") as error:
        run.optimizer_step.poll()
    assert error.value.step == 6
    assert isinstance(error.value, FloatingPointError)


def test_none_allowed_stops_at_the_first() -> None:
    run = Training(max_bad_steps=0)
    run.step(1)
    assert run.optimizer_step.poll() == 0
    run.step(2, loss=NAN)
    with pytest.raises(BadStepsError, match="in 1 steps in a row, last in step 2"):
        run.optimizer_step.poll()


def test_clipping_is_torchs() -> None:
    clipped, plain = Training(max_norm=1e-3), Training()
    clipped.step(0)
    loss = plain.model(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))).square()
    loss.mean().backward()
    norm = torch.cat([p.grad.flatten() for p in plain.model.parameters()]).norm()
    assert norm > 0.01
    for parameter in plain.model.parameters():
        parameter.grad *= 1e-3 / norm
    plain.optimizer.step()
    for one, two in zip(clipped.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    clipped.step(1, grad=INF)
    assert clipped.optimizer_step.poll() == 1


@KINDS
def test_a_scaler_skips_overflowing_gradients_itself(name: str, fused: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    run, plain = Training(name, fused=fused, scaler=scaler, max_bad_steps=0), Training(name)
    weights = run.model.classifier.weight.clone()
    run.step(0, image=1e6)
    assert scaler.get_scale() == 2.0**119
    assert torch.equal(run.model.classifier.weight, weights)
    assert run.optimizer_step.poll() == 0  # only the loss makes a step bad
    for number in range(1, 4):
        run.step(number)
        plain.step(number)
    heads = run.model.classifier.parameters(), plain.model.classifier.parameters()
    for one, two in zip(*heads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_with_a_scaler_a_bad_loss_is_bad_although_its_gradients_are_finite() -> None:
    run = Training(scaler=torch.amp.GradScaler("cpu", init_scale=2.0))
    run.step(0)
    before = [value.clone() for value in run.state()]
    run.step(1, loss=NAN)
    assert all(map(torch.equal, before, run.state()))
    assert run.optimizer_step.poll() == 1


def test_a_bad_first_step_gives_no_warning() -> None:
    run = Training()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.step(0, loss=NAN)
    assert run.optimizer_step.poll() == 1


@KINDS
@pytest.mark.parametrize("grad", [NAN, INF])
def test_gradients_that_overflow_at_every_scale_are_bad_steps(
    name: str, fused: bool, grad: float
) -> None:
    scaler = torch.amp.GradScaler("cpu")  # 65,536 at first: 16 steps until it is 1
    run = Training(name, fused=fused, scaler=scaler, max_bad_steps=3)
    run.step(0)
    before = [parameter.clone() for parameter in run.model.parameters()]
    for number in range(1, 17):
        run.step(number, grad=grad)
    assert (scaler.get_scale(), run.optimizer_step.poll()) == (1, 0)
    for number in range(17, 20):
        run.step(number, grad=grad)
    assert (scaler.get_scale(), run.optimizer_step.poll()) == (1, 3)
    for number in range(20, 200):
        run.step(number, grad=grad)
    assert scaler.get_scale() == 1
    assert all(map(torch.equal, before, run.model.parameters()))
    with pytest.raises(BadStepsError, match="183 steps in a row, last in step 199"):
        run.optimizer_step.poll()
    run.step(200)  # the scale still works
    assert not any(map(torch.equal, before, run.model.parameters()))


@pytest.mark.parametrize("fused", [False, True])
def test_a_saved_scale_of_0_is_raised(fused: bool) -> None:
    saved = Training(scaler=torch.amp.GradScaler("cpu")).optimizer_step.entries()
    saved["scaler_state"]["scale"] = 0.0  # as a run of an earlier version left it
    run, plain = Training(scaler=torch.amp.GradScaler("cpu"), fused=fused), Training()
    run.optimizer_step.load({**saved, "cur_itrs": 0}, source="x.pth")
    for number in range(2):
        run.step(number)
        plain.step(number)
    assert run.optimizer_step.poll() == 0
    for one, two in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)


LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("layouts", [LAYOUTS, LAYOUTS[::-1], LAYOUTS[:1]], ids=str)
def test_loaded_moments_lie_like_their_parameters(
    name: str, layouts: list[torch.memory_format]
) -> None:
    """A fused kernel on a GPU refuses any other order; the predecessor's files are contiguous."""
    saving, resumed = Training(name), Training(name, fused=True)
    saving.model.to(memory_format=layouts[0])
    resumed.model.to(memory_format=layouts[-1])
    saving.step(0)
    resumed.model.load_state_dict(saving.model.state_dict())
    saved = {**saving.optimizer_step.entries(), "cur_itrs": 1}
    resumed.optimizer_step.load(saved, source="x.pth")
    for one, two in zip(saving.model.parameters(), resumed.model.parameters(), strict=True):
        then, now = saving.optimizer.state[one], resumed.optimizer.state[two]
        assert then.keys() == now.keys()
        for key, value in now.items():
            torch.testing.assert_close(value, then[key])
            assert value.dim() == 0 or value.stride() == two.stride()
    if name == "adamw":  # it makes much of what two layouts round differently
        return
    saving.step(1)
    resumed.step(1)
    for one, two in zip(saving.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)
