"""predict.py with an ONNX file: the same files as with the checkpoint it was exported from."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import predict
from datasets.voc import VOCSegmentation
from network import create_model, export

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, its exports, and two images."""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    model = create_model("deeplabv3plus_mobilenet", num_classes=21).eval()
    model.class_names = tuple(VOCSegmentation.facts.class_names)
    model.palette = VOCSegmentation.facts.palette
    (folder / "best.pth").write_bytes(export.slim(model))
    for name, size in (("any", None), ("fixed", (40, 48))):
        both = export.to_onnx(model, size=size, half=False, with_labels=True)
        del both.graph.output[0 if name == "any" else 1]  # so it gives labels, or logits
        onnx.save(both, folder / f"{name}.onnx")
    (folder / "in").mkdir()
    for name, size in (("a", (40, 48)), ("b", (40, 48)), ("c", (51, 67))):
        blocks = np.random.default_rng(ord(name)).integers(256, size=(9, 9, 3), dtype=np.uint8)
        pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]]
        Image.fromarray(pixels).save(folder / "in" / f"{name}.png")
    return folder


@pytest.fixture
def call(folder, tmp_path, capsys):
    """Runs predict.py; returns its exit code and what it printed."""

    def run(ckpt, *more, output="masks"):
        places = ["--input", str(folder / "in"), "--ckpt", str(folder / ckpt)]
        code = predict.main([*places, "--output", str(tmp_path / output), "--device", "cpu", *more])
        return code, "".join(capsys.readouterr())

    return run


def pixels(path):
    return np.array(Image.open(path)).astype(int)


def test_writes_what_the_checkpoint_writes(call, tmp_path):
    assert call("best.pth", "--rgb", output="expected")[0] == 0
    assert call("any.onnx", "--rgb", "--batch_size", "2")[0] == 0
    for name in ("a.png", "b.png", "c.png", "a_rgb.png"):
        expected, found = tmp_path / "expected" / name, tmp_path / "masks" / name
        assert (pixels(expected) == pixels(found)).mean() > 0.999
        colors = [np.array(Image.open(path).convert("RGB")) for path in (expected, found)]
        assert (colors[0] == colors[1]).mean() > 0.999


def test_fixed_size_and_probabilities(call, tmp_path):
    more = ("--confidence", "--summary")
    assert call("best.pth", *more, str(tmp_path / "1.csv"), output="expected")[0] == 0
    code, printed = call("fixed.onnx", *more, str(tmp_path / "2.csv"))
    assert code == 1
    assert "c.png is 67x51 pixels; " in printed and "takes 48x40 pixels only" in printed
    for name in ("a_confidence.png", "b_confidence.png"):
        difference = pixels(tmp_path / "expected" / name) - pixels(tmp_path / "masks" / name)
        assert abs(difference).max() <= 1
    one, two = (list(csv.reader((tmp_path / f"{n}.csv").open()))[1:3] for n in (1, 2))
    for first, second in zip(one, two, strict=True):
        assert float(first[1]) == pytest.approx(float(second[1]), abs=1e-4)


@pytest.mark.parametrize(
    "more, words",
    [
        (["--confidence"], "--output_kind logits"),
        (["--flip"], "--flip needs a checkpoint"),
        (["--precision", "bf16"], "--precision needs a checkpoint"),
        (["--model", "deeplabv3_resnet50"], "--model needs a checkpoint"),
    ],
)
def test_what_an_onnx_file_cannot_do_is_one_line(more, words, call):
    code, printed = call("any.onnx", *more)
    assert code == 2 and words in printed and printed.count("\n") == 1


def test_other_files_are_one_line(folder, call):
    content = (folder / "any.onnx").read_bytes()
    rng = np.random.default_rng(0)
    mutated = [b"", b"no graph", content[: len(content) // 2]]
    for _ in range(20):
        damaged = bytearray(content)
        for place in rng.integers(0, 3000, 20):
            damaged[place] = rng.integers(256)
        mutated.append(bytes(damaged))
    for number, data in enumerate(mutated):
        (folder / "bad.onnx").write_bytes(data)
        code, printed = call("bad.onnx", output=f"masks{number}")
        assert code == 0 or "predict.py: error: " in printed.splitlines()[-1]
        assert code == 2 or number >= 3


def test_files_of_other_programs_are_refused(folder, call):
    made = onnx.load(folder / "any.onnx")
    del made.metadata_props[:]
    onnx.save(made, folder / "plain.onnx")
    assert "has no class names and colors" in call("plain.onnx")[1]
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    onnx.save(made, folder / "seven.onnx")
    assert "was not written by python -m network.export" in call("seven.onnx")[1]
