from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from network import create_model, export, load_checkpoint
from network.pretrained import read_file

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# One model of every family; the smallest are not slow.
FAMILIES = ["mobilenet", "resnet18", "xception", "xception41", "hrnetv2_18_small", "res2net50d"]
FAMILIES += ["vovnetv2_19_slim_dw", "hgnet_tiny", "hgnetv2_b0"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return varied(create_model("deeplabv3plus_mobilenet", num_classes=5)).eval()


def varied(model):
    """With the statistics of a few images, so that labels differ from pixel to pixel."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # the plain mean
        for _ in range(2):
            model.train()(torch.rand(4, 3, 65, 97) * 4 - 2)
    return model


@pytest.fixture
def ckpt(model, own_checkpoint, tmp_path):
    path = tmp_path / "best.pth"
    state = model.state_dict()
    torch.save(
        own_checkpoint(model, optimizer_state={"state": {}, "param_groups": []}, ema_state=state),
        path,
    )
    return path


@pytest.fixture
def run(ckpt, tmp_path):
    def call(*args, output="model.onnx"):
        path = tmp_path / output
        assert export.main(["--ckpt", str(ckpt), "--output", str(path), *args]) == 0
        assert not list(tmp_path.glob(".*"))
        return path

    return call


def answers(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    return output.name, session.run(None, {"image": images})[0]


def pixels(*shape):
    coarse = np.random.default_rng(1).integers(256, size=(*shape[:2], 5, 7))
    large = coarse.repeat(30, axis=2).repeat(30, axis=3)
    return large[:, :, : shape[2], : shape[3]].astype(np.uint8)


@pytest.mark.parametrize("kind", ["labels", pytest.param("logits", marks=pytest.mark.slow)])
def test_any_size_gives_what_the_network_gives(kind, ckpt, run, capsys):
    path = run("--output_kind", kind)
    model = load_checkpoint(ckpt)
    for shape in ((1, 3, 33, 34), (2, 3, 130, 71)):
        images = pixels(*shape)
        name, found = answers(path, images)
        with torch.no_grad():
            logits = model((torch.tensor(images) / 255 - mean()) / std()).numpy()
        assert name == kind
        if kind == "labels":
            labels = logits.argmax(1)
            assert found.dtype == np.uint8 and len(np.unique(labels)) > 1
            assert (found == labels).mean() > 0.9999
        else:
            assert found.dtype == np.float32 and np.allclose(found, logits, atol=1e-4)
    out = capsys.readouterr().out
    assert "largest difference" in out and "% of the labels equal" in out


def mean():
    return torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)


def std():
    return torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)


@pytest.mark.slow  # exports take seconds
def test_metadata(run):
    props = {p.key: json.loads(p.value) for p in onnx.load(run()).metadata_props}
    assert props == {
        "model_name": "deeplabv3plus_mobilenet",
        "class_names": ["road", "sky", "2", "3", "4"],
        "colors": np.arange(15).reshape(5, 3).tolist(),
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }


@pytest.mark.slow
def test_fixed_size_in_half_precision(run):
    path = run("--size", "64x97", "--precision", "fp16", "--output_kind", "logits")
    (given,) = onnx.load(path).graph.input
    sides = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert sides == ["batch", 3, 64, 97]
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert answers(path, pixels(2, 3, 64, 97))[1].dtype == np.float32


@pytest.mark.slow
def test_compares_on_images_and_names_bad_ones(run, tmp_path, capsys):
    folder = tmp_path / "images" / "deeper"
    folder.mkdir(parents=True)
    Image.fromarray(pixels(1, 3, 50, 77)[0].transpose(1, 2, 0)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    run("--images", str(folder.parent))
    assert "b.png" in capsys.readouterr().err


def test_disagreement_is_an_error_and_leaves_no_file(ckpt, tmp_path, monkeypatch, capsys):
    torch.manual_seed(1)
    other = varied(create_model("deeplabv3plus_mobilenet", num_classes=5)).eval()
    to_onnx = export.to_onnx
    monkeypatch.setattr(export, "to_onnx", lambda model, **args: to_onnx(other, **args))
    path = tmp_path / "out" / "model.onnx"
    assert export.main(["--ckpt", str(ckpt), "--output", str(path)]) == 2
    assert "disagrees" in capsys.readouterr().err
    assert not path.parent.exists()


def test_slim_checkpoint(ckpt, run, model):
    content = read_file(run(output="small.pth"))
    assert "optimizer_state" not in content and "ema_state" not in content
    loaded, before = load_checkpoint(ckpt.with_name("small.pth")), load_checkpoint(ckpt)
    assert loaded.class_names == before.class_names and loaded.mean == before.mean
    assert (loaded.palette == before.palette).all()
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(loaded(x), before(x))


@pytest.mark.parametrize(
    "args, words",
    [
        (["--output", "model.pt"], "must end in .onnx or .pth"),
        (["--output", "best.pth"], "choose another name"),
        (["--output", "small.pth", "--precision", "fp16"], "--precision is for .onnx files"),
        (["--output", "model.onnx", "--size", "32x64"], "at least 33"),
        (["--output", "model.onnx", "--size", "512"], "HEIGHTxWIDTH"),
        (["--output", "model.onnx", "--images", "nowhere"], "not a folder"),
    ],
)
def test_mistakes_are_one_line(args, words, ckpt, monkeypatch, capsys):
    monkeypatch.chdir(ckpt.parent)
    with pytest.raises(SystemExit) as caught:
        export.main(["--ckpt", "best.pth", *args])
    assert caught.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]


def test_says_what_is_not_installed(ckpt, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "-packages" not in p])
    monkeypatch.delitem(sys.modules, "onnx", raising=False)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(SystemExit):
        export.main(["--ckpt", str(ckpt), "--output", "model.onnx"])
    assert "pip install onnx onnxruntime" in capsys.readouterr().err


@pytest.mark.slow  # a minute
@pytest.mark.parametrize("architecture", ["deeplabv3", "deeplabv3plus"])
@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_family_takes_any_size(architecture, backbone):
    torch.manual_seed(0)
    model = varied(create_model(f"{architecture}_{backbone}", num_classes=19)).eval()
    made = export.to_onnx(model, size=None, half=False, with_labels=True)
    run = export.session(made.SerializeToString())
    difference, largest, equal = export.compare(model, run, export.random_images(None))
    print(f"{model.name}: {difference:.2g} of {largest:.3g}, {100 * equal:.4f} % equal")
    assert difference < 1e-4 * max(largest, 1) and equal > 0.9999
