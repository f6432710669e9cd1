"""The average against numbers worked out by hand and a plain loop; resumed bit for bit."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from utils.training.ema import Ema, NoEma


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def train(model: nn.Module, ema: Ema | NoEma, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(2, 3, 6, 6, generator=generator)).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad + 0.01
                parameter.grad = None
        ema.update()


def test_warm_up_of_the_decay_by_hand() -> None:
    """Decays 1/10, 2/11, then the 0.25 asked for, which 3/12 reaches."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(100.0)
        ema = Ema(model, 0.25)
        seen = []
        for value in (0.0, 11.0, 1.0, 5.0):
            model.weight.fill_(value)
            ema.update()
            seen.append(ema.model.weight.item())
    second = 10 * 2 / 11 + 11 * 9 / 11
    third = second / 4 + 1 * 3 / 4
    assert seen == pytest.approx([10.0, second, third, third / 4 + 5 * 3 / 4])


def test_statistics_are_averaged_and_counters_copied() -> None:
    model = small()
    ema = Ema(model, 0.5)
    averages = {key: value.clone() for key, value in model.state_dict().items()}
    for step in range(12):
        train(model, ema, range(step, step + 1))
        decay = min(0.5, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            averages[key] = (
                value if key.endswith("tracked") else averages[key].lerp(value, 1 - decay)
            )
    found = ema.model.state_dict()
    assert list(found) == list(model.state_dict())
    for key, expected in averages.items():
        torch.testing.assert_close(found[key], expected, rtol=1e-6, atol=1e-7)
    assert found["1.num_batches_tracked"] == 12
    assert found["1.num_batches_tracked"].dtype == torch.int64


def test_a_resumed_average_is_the_uninterrupted_one_to_the_last_bit() -> None:
    model = small()
    whole = Ema(model, 0.9)
    train(model, whole, range(9))

    model = small()
    ema = Ema(model, 0.9)
    train(model, ema, range(4))
    file = io.BytesIO()
    torch.save({"model_state": model.state_dict(), **ema.entries()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    model = small()
    model.load_state_dict(saved["model_state"])
    resumed = Ema(model, 0.9)
    resumed.load(saved)
    train(model, resumed, range(4, 9))
    assert resumed.updates == whole.updates == 9
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_the_copy_is_for_evaluation_and_keeps_the_memory_format() -> None:
    model = small().to(memory_format=torch.channels_last)
    ema = Ema(model, 0.9)
    train(model, ema, range(2))
    assert model.training and not any(module.training for module in ema.model.modules())
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert ema.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in ema.model.parameters())


def test_it_follows_a_network_that_synchronised_batchnorm_was_put_into() -> None:
    model = small()
    ema = Ema(model, 0.5)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with torch.no_grad():
        converted[1].running_mean += 10
    ema.update()  # a decay of 1/10
    torch.testing.assert_close(ema.model[1].running_mean, torch.full((4,), 9.0))


def test_without_an_average_the_network_stands_for_itself() -> None:
    model = small()
    ema = NoEma(model)
    ema.update()
    assert ema.model is model and ema.entries() == {}


def test_without_an_average_in_the_checkpoint_it_starts_from_the_present_weights() -> None:
    ema = Ema(small(), 0.9)
    before = {key: value.clone() for key, value in ema.model.state_dict().items()}
    ema.load({"model_state": {}})
    assert ema.updates == 0
    assert all(torch.equal(value, before[key]) for key, value in ema.model.state_dict().items())


def test_a_loaded_average_keeps_the_memory_format() -> None:
    saved = Ema(small(), 0.9).entries()  # contiguous
    ema = Ema(small().to(memory_format=torch.channels_last), 0.9)
    ema.load(saved)
    weight = ema.model[0].weight
    assert weight.stride() != saved["ema_state"]["0.weight"].stride()
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, saved["ema_state"]["0.weight"])
