"""Published weights by name: fetched from a server that plays the hub, kept, checked, refused."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torchvision

from network import create_model, default_weights, list_models, modeling
from network.backbone import BACKBONES, Entry, Weights
from network.backbone.base import timm_weights
from network.pretrained import weights

ROOT = Path(__file__).parents[3]
SMALL_HRNET = "deeplabv3_hrnetv2_18_small"
REPOSITORY = "timm/hrnet_w18_small.gluon_in1k"


def perturbed(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """State of a model with BatchNorm statistics and affines that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model.state_dict()


@pytest.fixture(scope="module")
def hrnet() -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("hrnet_w18_small").eval()
    perturbed(model)
    return model


@pytest.fixture(scope="module")
def hrnet_file(hrnet: torch.nn.Module) -> bytes:
    return safetensors.torch.save(hrnet.state_dict())


def assert_backbone_is(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_weights_come_by_name_once(hub, hrnet, hrnet_file, capsys) -> None:
    hub.publish(REPOSITORY, hrnet_file)
    model = create_model(SMALL_HRNET, pretrained="imagenet")
    assert_backbone_is(model, hrnet.state_dict())
    expected = f"{REPOSITORY}: 426 of 552 tensors used for hrnetv2_18_small, left out: 126"
    assert f"{expected} (its classifier)\n" in capsys.readouterr().out
    gets = [line for line in hub.requests if line.startswith("GET")]
    assert len(gets) == 1 and "/model.safetensors" in gets[0]
    again = modeling.deeplabv3_hrnetv2_18_small(pretrained_backbone=True)
    assert_backbone_is(again, hrnet.state_dict())
    assert [line for line in hub.requests if line.startswith("GET")] == gets


def test_the_cache_serves_without_network(hub, hrnet, hrnet_file, monkeypatch) -> None:
    hub.publish(REPOSITORY, hrnet_file)
    create_model(SMALL_HRNET, pretrained="imagenet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert_backbone_is(create_model(SMALL_HRNET, pretrained=True), hrnet.state_dict())
    assert len(hub.requests) == asked


@pytest.mark.parametrize("why", ["offline", "unknown"])
def test_nothing_cached_and_no_way_there_is_one_clear_line(why, hub, monkeypatch) -> None:
    if why == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError) as error:
        create_model(SMALL_HRNET, pretrained="imagenet")
    line = str(error.value)
    assert line.startswith(f"no ImageNet weights for hrnetv2_18_small: {REPOSITORY} is not in the")
    assert "fetch it by `hf download timm/hrnet_w18_small.gluon_in1k model.safetensors" in line
    assert "--pretrained FILE" in line and line.endswith("--pretrained none")
    assert "\n" not in line
    if why == "unknown":
        assert "answers 404" in line


def test_half_a_download_never_counts(hub, hrnet, hrnet_file, monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the tries
    hub.publish(REPOSITORY, hrnet_file)
    hub.kept = 0.5
    with pytest.raises(FileNotFoundError, match="no ImageNet weights for .*--pretrained none"):
        create_model(SMALL_HRNET, pretrained="imagenet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="no ImageNet weights for .*--pretrained none"):
        create_model(SMALL_HRNET, pretrained="imagenet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub.kept = 1.0
    assert_backbone_is(create_model(SMALL_HRNET, pretrained="imagenet"), hrnet.state_dict())


def test_a_damaged_file_in_the_cache_is_fetched_anew(hub, hrnet, hrnet_file) -> None:
    hub.publish(REPOSITORY, hrnet_file)
    path = weights.fetch(BACKBONES["hrnetv2_18_small"].variant.weights, "hrnetv2_18_small")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    assert_backbone_is(create_model(SMALL_HRNET, pretrained="imagenet"), hrnet.state_dict())
    path.resolve().write_bytes(content)
    hub.files.clear()
    with pytest.raises(FileNotFoundError, match="no ImageNet weights for hrnetv2_18_small"):
        create_model(SMALL_HRNET, pretrained="imagenet")


def test_a_server_that_sends_something_else_is_refused(hub, hrnet_file) -> None:
    hub.publish(REPOSITORY, hrnet_file[:-1] + bytes([hrnet_file[-1] ^ 1]))
    for revision in ("main", hub.commit):
        path = f"/{REPOSITORY}/resolve/{revision}/model.safetensors"
        hub.etags[path] = hashlib.sha256(hrnet_file).hexdigest()
    with pytest.raises(
        FileNotFoundError, match="the file was damaged and is deleted: its SHA-256 is "
    ):
        create_model(SMALL_HRNET, pretrained="imagenet")


@pytest.fixture
def resnet18_url(hub, tmp_path: Path, monkeypatch) -> dict[str, torch.Tensor]:
    """The server plays torchvision's too: its resnet18, under its name with its hash."""
    torch.manual_seed(0)
    state = perturbed(torchvision.models.resnet18(weights=None))
    torch.save(state, tmp_path / "source.pth")
    content = (tmp_path / "source.pth").read_bytes()
    digits = hashlib.sha256(content).hexdigest()[:8]
    hub.files[f"/models/resnet18-{digits}.pth"] = content
    url = f"{hub.url}/models/resnet18-{digits}.pth"
    network, variant = BACKBONES["resnet18"]
    here = replace(variant, weights=replace(variant.weights, source=url))
    monkeypatch.setitem(BACKBONES, "resnet18", Entry(network, here))
    return state


def test_torchvisions_weights(hub, resnet18_url, tmp_path: Path, capsys) -> None:
    model = create_model("deeplabv3_resnet18", pretrained="imagenet")
    assert_backbone_is(model, resnet18_url)
    printed = capsys.readouterr().out
    assert re.search(r"resnet18-[0-9a-f]{8}\.pth: 120 of 122 tensors used", printed)
    create_model("deeplabv3plus_resnet18", pretrained="imagenet")
    assert len(hub.requests) == 1
    (file,) = (tmp_path / "torch" / "checkpoints").iterdir()
    file.write_bytes(file.read_bytes()[:-1000])
    assert_backbone_is(create_model("deeplabv3_resnet18", pretrained=True), resnet18_url)
    file.write_bytes(file.read_bytes()[:-1000])
    hub.files.clear()
    with pytest.raises(FileNotFoundError, match="could not be.*`curl -LO http://127.0.0.1"):
        create_model("deeplabv3_resnet18", pretrained="imagenet")


@pytest.mark.parametrize("how", ["cut short", "another file", "gone"])
def test_torchvisions_download_goes_wrong(how, hub, resnet18_url, tmp_path: Path) -> None:
    (path,) = hub.files
    if how == "cut short":
        hub.kept = 0.5
    elif how == "another file":
        hub.files[path] = b"<html>log in first</html>"
    else:
        hub.files.clear()
    with pytest.raises(FileNotFoundError, match="no ImageNet weights for resnet18: .*none$"):
        create_model("deeplabv3_resnet18", pretrained="imagenet")
    assert list((tmp_path / "torch" / "checkpoints").iterdir()) == []


def test_urls_are_torchvisions() -> None:
    for name, entry in BACKBONES.items():
        stated = entry.variant.weights
        if stated and stated.source.startswith("https://download.pytorch.org/"):
            model = weights.describe(stated).partition("-")[0]
            published = torchvision.models.get_model_weights(model)["IMAGENET1K_V1"]
            assert stated.url == published.url
            top1 = published.meta["_metrics"]["ImageNet-1K"]["acc@1"]
            assert stated.top1 == pytest.approx(top1, abs=0.006), name
            assert list(entry.variant.mean) == published.transforms().mean


def test_hub_repositories_are_timms() -> None:
    """Name, license and normalization, as timm states them."""
    seen = 0
    for name, entry in BACKBONES.items():
        published = entry.variant.weights
        if published is None or not published.source.startswith("timm/"):
            continue
        config = timm.models.get_pretrained_cfg(published.source.removeprefix("timm/"))
        assert config.hf_hub_id == published.source, name
        assert entry.variant.mean == tuple(config.mean), name
        assert entry.variant.std == tuple(config.std), name
        stated = config.license
        if stated in weights.PERMISSIVE or published.license in weights.PERMISSIVE:
            assert published.license == stated, name
        seen += 1
    assert seen >= 9


def test_a_license_that_restricts_is_said(hub, hrnet_file, monkeypatch, capsys) -> None:
    hub.publish("timm/other", hrnet_file)
    network, variant = BACKBONES["hrnetv2_18_small"]
    object.__setattr__(variant, "weights", timm_weights("other", license="cc-by-nc-4.0"))
    try:
        create_model(SMALL_HRNET, pretrained="imagenet")
    finally:
        object.__setattr__(
            variant, "weights", timm_weights(REPOSITORY[5:], license="apache-2.0", top1=73.93)
        )
    printed = capsys.readouterr().out
    assert printed.count("license of timm/other: cc-by-nc-4.0, which is not permissive") == 1


def test_no_published_weights(monkeypatch) -> None:
    variant = BACKBONES["resnet18"].variant
    before = variant.weights
    object.__setattr__(variant, "weights", None)
    try:
        assert default_weights("deeplabv3_resnet18") == "none"
        with pytest.raises(ValueError, match="nobody has published ImageNet weights for resnet18"):
            create_model("deeplabv3_resnet18", pretrained="imagenet")
    finally:
        object.__setattr__(variant, "weights", before)
    assert default_weights("deeplabv3_resnet18") == "imagenet"


def test_every_entry_is_complete() -> None:
    for name, entry in BACKBONES.items():
        published = entry.variant.weights
        assert published is None or isinstance(published, Weights), name
        if published:
            assert published.license and published.source, name
            assert published.top1 is None or 60 < published.top1 < 90, name
    assert {default_weights(name) for name in list_models()} <= {"imagenet", "none"}


def test_the_hubs_environment_variables_work(hub, hrnet_file, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, in a process of its own, from the command line."""
    hub.publish(REPOSITORY, hrnet_file)
    options = "--dataset shapes --crop_size 33 --batch_size 2 --total_itrs 1 --num_workers 0"
    few = f"--crop_val --vis_num_samples 0 --device cpu --model {SMALL_HRNET}"
    variables = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "main.py", *options.split(), *few.split(), "--overwrite"]
        command += ["--output_dir", str(tmp_path / "out")]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= variables | more
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )

    offline = run(HF_HUB_OFFLINE="1")
    assert offline.returncode == 2 and offline.stderr.count("\n") == 1, offline.stderr
    assert offline.stderr.startswith("main.py: error: no ImageNet weights for hrnetv2_18_small")
    assert hub.requests == [] and not (tmp_path / "out").exists()
    done = run()
    assert done.returncode == 0, done.stderr
    assert f"{REPOSITORY}: 426 of 552 tensors used" in done.stdout
    assert done.stdout.count("tensors used") == 1
