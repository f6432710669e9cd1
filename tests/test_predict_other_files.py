"""`predict.py` with checkpoints of others: torchvision's, and one that the predecessor misbuilt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import network
import predict


def predicted(tmp_path: Path, ckpt: Path, name: str, dataset: str) -> np.ndarray:
    """The mask of one image, by the command."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    places = ["--input", str(tmp_path / "x.png"), "--output", str(tmp_path / "masks")]
    flags = ["--ckpt", str(ckpt), "--model", name, "--dataset", dataset, "--device", "cpu"]
    assert predict.main([*places, *flags]) == 0
    return np.array(Image.open(tmp_path / "masks" / "x.png"))


def network_input(tmp_path: Path) -> torch.Tensor:
    image = torch.from_numpy(np.array(Image.open(tmp_path / "x.png"))).permute(2, 0, 1)[None]
    return network.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(image)


def test_torchvisions_deeplab_at_its_output_stride(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "tv.pth")
    mask = predicted(tmp_path, tmp_path / "tv.pth", "deeplabv3_resnet50", "voc")
    with torch.no_grad():
        expected = theirs(network_input(tmp_path))["out"].argmax(1)[0].numpy()
    assert (mask == expected).mean() > 0.999


@pytest.mark.parametrize("num_classes", [16, 5])
def test_hrnet_with_as_many_classes_as_the_output_stride(
    num_classes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    name, args = "deeplabv3_hrnetv2_18_small", {"stem_relu": False}
    old = network.create_model(name, num_classes=num_classes, backbone_args=args).eval()
    torch.save({"model_state": dict(old.state_dict()), "cur_itrs": 1}, tmp_path / "o.pth")
    if num_classes == 5:
        with pytest.raises(AssertionError):
            predicted(tmp_path, tmp_path / "o.pth", name, "cityscapes")
        assert "o.pth has 5 classes, but --dataset cityscapes has 19" in capsys.readouterr().err
        return
    mask = predicted(tmp_path, tmp_path / "o.pth", name, "cityscapes")
    assert (
        "gave deeplabv3_hrnetv2 as many classes as its --output_stride" in capsys.readouterr().out
    )
    with torch.no_grad():
        expected = old(network_input(tmp_path)).argmax(1)[0].numpy()
    assert (mask == expected).mean() > 0.999
