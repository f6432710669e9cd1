"""Prediction as the user types it: which images are found, what is written, what is refused."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import network
import predict
from datasets.base import read_image
from datasets.voc import VOCSegmentation
from network import create_model, export
from network.passes import logits_of_passes
from utils.prediction import torch_device

SIZE = (48, 40)  # W, H


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("deeplabv3plus_mobilenet", num_classes=21).eval()


@pytest.fixture(scope="module")
def ckpt(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint without training state."""
    path = tmp_path_factory.mktemp("ckpt") / "best.pth"
    model.class_names = VOCSegmentation.facts.class_names
    model.palette = VOCSegmentation.facts.palette
    path.write_bytes(export.slim(model))
    return str(path)


@pytest.fixture
def picture() -> np.ndarray:
    """(40,48,3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8)


@pytest.fixture
def call(ckpt: str, tmp_path: Path) -> Callable[..., int]:
    def run(source: Path, *more: str) -> int:
        where = ["--input", str(source), "--ckpt", ckpt, "--device", "cpu"]
        return predict.main([*where, "--output", str(tmp_path / "masks"), *more])

    return run


def expected_labels(model: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.no_grad():
        return model(network.Normalize(model.mean, model.std)(batch)).argmax(1)[0].numpy()


def test_a_mask_holds_ids_and_shows_colors(model, call, picture, tmp_path: Path) -> None:
    source = tmp_path / "photo.png"
    Image.fromarray(picture).save(source)
    assert call(source, "--overlay") == 0
    mask = Image.open(tmp_path / "masks" / "photo.png")
    assert mask.mode == "P"
    labels = expected_labels(model, picture)
    assert np.array_equal(np.array(mask), labels)
    colors = VOCSegmentation.decode_target(labels)
    assert np.array_equal(np.array(mask.convert("RGB")), colors)
    overlay = Image.open(tmp_path / "masks" / "photo_overlay.jpg")
    assert overlay.size == SIZE


def test_folders_are_mirrored_and_nothing_overwrites_another(call, picture, tmp_path: Path) -> None:
    source = tmp_path / "in put"
    names = ["a.JPG", "a.png", "sub/a.jpeg", "sub/über.BMP", "sub/deep/b.tif", "c.WebP"]
    names.append("a.JPG.tif")  # whose mask would be that of a.JPG
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(source / name)
    (source / "notes.txt").write_text("no image")
    assert call(source) == 0
    masks = tmp_path / "masks"
    found = {path.relative_to(masks).as_posix() for path in masks.rglob("*") if path.is_file()}
    expected = {
        "a.JPG.png",
        "a.png.png",
        "a.JPG.png.png",
        "sub/a.png",
        "sub/über.png",
        "sub/deep/b.png",
        "c.png",
    }
    assert found == expected


def test_exif_orientation_is_applied(model, call, picture, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: turn by 270 degrees to see it upright
    Image.fromarray(picture).save(tmp_path / "lying.png", exif=exif)
    assert call(tmp_path / "lying.png") == 0
    found = np.array(Image.open(tmp_path / "masks" / "lying.png"))
    assert found.shape == (SIZE[0], SIZE[1])
    assert np.array_equal(found, expected_labels(model, np.rot90(picture, -1).copy()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_agree_with_pillow(orientation: int, picture, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    Image.fromarray(picture).save(path, exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(np.array(read_image(path, upright=True)), expected)


def test_a_damaged_exif_block_is_no_reason_to_skip(model, call, picture, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x03\x01\x12\x00\x03\xff"
    Image.fromarray(picture).save(path, exif=exif, quality=95)
    assert call(path) == 0
    wanted = expected_labels(model, np.array(Image.open(path)))
    assert np.array_equal(np.array(Image.open(tmp_path / "masks" / "x.png")), wanted)


def test_floating_point_pixels_are_refused(call, picture, tmp_path: Path, capsys) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(picture[..., 0].astype(np.float32) / 255).save(path)
    assert call(path) == 1
    assert "floating-point" in capsys.readouterr().err


def test_every_kind_of_pixel_is_read(model, call, picture, tmp_path: Path) -> None:
    source, wanted = tmp_path / "in", {}
    source.mkdir()
    for mode in ("L", "LA", "RGBA", "P", "CMYK", "1"):
        image = Image.fromarray(picture).convert(mode)
        image.save(source / (f"{mode}.tif" if mode == "CMYK" else f"{mode}.png"))
        wanted[mode] = np.array(image.convert("RGB"))
    gray = picture[..., 0]
    Image.fromarray(gray.astype(np.uint16) * 257).save(source / "16 bits.png")
    wanted["16 bits"] = np.repeat(gray[..., None], 3, axis=2)
    assert call(source) == 0
    for name, pixels in wanted.items():
        found = np.array(Image.open(tmp_path / "masks" / f"{name}.png"))
        assert np.array_equal(found, expected_labels(model, pixels)), name


def test_an_unreadable_file_is_named_and_left_out(call, picture, tmp_path: Path, capsys) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(picture).save(source / "good.png")
    whole = (source / "good.png").read_bytes()
    (source / "cut.png").write_bytes(whole[: len(whole) // 2])
    (source / "text.jpg").write_text("no image at all")
    assert call(source) == 1
    error = capsys.readouterr().err
    assert "cut.png" in error and "text.jpg" in error and "Traceback" not in error
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["good.png"]


def test_no_image_is_an_error(call, tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    assert call(tmp_path / "in") == 2
    assert "no image in" in capsys.readouterr().err


def test_files_are_replaced_only_the_predecessors_way(
    call, picture, tmp_path: Path, capsys
) -> None:
    source = tmp_path / "x.png"
    Image.fromarray(picture).save(source)
    assert call(source) == 0
    assert call(source) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert call(source, "--save_val_results_to", str(tmp_path / "masks")) == 0
    assert call(source, "--save_val_results_to", str(tmp_path)) == 2  # the image itself
    assert call(tmp_path, "--output", str(tmp_path)) == 2
    assert "is the input folder" in capsys.readouterr().err
    assert np.array_equal(np.array(Image.open(source)), picture)


def test_a_full_disk_leaves_no_half_overlay(call, picture, tmp_path: Path, capsys) -> None:
    """The system refuses to write past a limit, as it does on a full disk."""
    source, masks = tmp_path / "x.png", tmp_path / "masks"
    Image.fromarray(picture).save(source)
    assert call(source, "--overlay") == 0
    before = {path.name: path.read_bytes() for path in masks.iterdir()}
    assert len(before["x.png"]) + 100 < len(before["x_overlay.jpg"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["x.png"]) + 50, hard))
    try:
        again = call(source, "--overlay", "--save_val_results_to", str(masks))
        anew = call(source, "--overlay", "--output", str(tmp_path / "new"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (again, anew) == (2, 2)
    error = capsys.readouterr().err
    assert "File too large" in error and str(masks / "x_overlay.jpg") in error
    assert {path.name: path.read_bytes() for path in masks.iterdir()} == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]


def test_averaged_weights_are_said(ckpt: str, call, picture, tmp_path: Path, capsys) -> None:
    source, averaged = tmp_path / "x.png", tmp_path / "averaged.pth"
    Image.fromarray(picture).save(source)
    state = torch.load(ckpt)
    torch.save(state | {"ema_state": state["model_state"]}, averaged)
    line = "deeplabv3plus_mobilenet{}, 21 classes, on cpu: 1 images"
    assert call(source) == 0
    assert capsys.readouterr().out.splitlines()[0] == line.format("")
    assert call(source, "--ckpt", str(averaged), "--output", str(tmp_path / "m2")) == 0
    assert capsys.readouterr().out.splitlines()[0] == line.format(" with averaged weights")


def test_masks_inside_the_input_are_not_taken_for_images(call, picture, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(picture).save(source / "x.png")
    into = ["--save_val_results_to", str(source / "masks")]
    assert call(source, *into) == 0
    assert call(source, *into) == 0
    assert [path.name for path in (source / "masks").rglob("*.png")] == ["x.png"]


def test_crop_val_predicts_the_center(model, call, picture, tmp_path: Path) -> None:
    source = tmp_path / "x.png"
    Image.fromarray(picture).save(source)
    assert call(source, "--crop_val", "--crop_size", "40") == 0
    found = np.array(Image.open(tmp_path / "masks" / "x.png"))
    assert np.array_equal(found, expected_labels(model, picture[:, 4:44].copy()))


def test_large_images_are_predicted_in_tiles(call, tmp_path: Path, monkeypatch) -> None:
    source = tmp_path / "x.png"
    Image.new("RGB", (130, 70)).save(source)
    seen = []

    def watch(model: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        seen.append(tuple(inputs[0].shape[-2:]))

    def watched(*args, **settings) -> list[torch.Tensor]:
        next(args[0].backbone.children()).register_forward_pre_hook(watch)
        return logits_of_passes(*args, **settings)

    monkeypatch.setattr(torch_device, "logits_of_passes", watched)
    assert call(source, "--val_tile", "64") == 0
    # Windows at 0 and 32 down, 0, 32, 64 and 96 across.
    assert seen == [(rows, columns) for rows in (64, 38) for columns in (64, 64, 64, 34)]
    assert Image.open(tmp_path / "masks" / "x.png").size == (130, 70)


def test_running_out_of_memory_even_in_tiles_is_one_line(
    call, picture, tmp_path: Path, capsys, monkeypatch
) -> None:
    source = tmp_path / "x.png"
    Image.fromarray(picture).save(source)
    too_much = 2**47
    monkeypatch.setattr(torch_device, "logits_of_passes", lambda *_, **__: torch.empty(too_much))
    assert call(source) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("predict.py: error: out of memory, even in tiles of 48 pixels")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(precision: str, model, call, picture, tmp_path: Path) -> None:
    source = tmp_path / "x.png"
    Image.fromarray(picture).save(source)
    assert call(source, "--precision", precision) == 0
    found = np.array(Image.open(tmp_path / "masks" / "x.png"))
    assert (found == expected_labels(model, picture)).mean() > 0.9


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    """Fast products, as an earlier program in the process may have asked for."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("tf32_allowed")
def test_fp32_never_computes_in_tf32(call, picture, tmp_path: Path) -> None:
    source = tmp_path / "x.png"
    Image.fromarray(picture).save(source)
    assert call(source) == 0
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_checkpoint_is_read_once(call, picture, tmp_path: Path, monkeypatch) -> None:
    source, load, read = tmp_path / "x.png", torch.load, []
    Image.fromarray(picture).save(source)
    monkeypatch.setattr(torch, "load", lambda *a, **k: read.append(a[0]) or load(*a, **k))
    assert call(source) == 0
    assert len(read) == 1


def test_the_predecessors_checkpoint_needs_its_flags(call, picture, tmp_path: Path, capsys) -> None:
    source = tmp_path / "x.png"
    Image.fromarray(picture).save(source)
    torch.manual_seed(1)
    legacy = {"backbone_args": {"legacy_padding": True}}
    old = create_model("deeplabv3plus_mobilenet", num_classes=19, **legacy).eval()
    path = tmp_path / "old.pth"
    torch.save({"model_state": old.state_dict(), "best_score": np.float64(0.7)}, path)
    flags = "--dataset cityscapes --model deeplabv3plus_mobilenet --val_batch_size 4 --gpu_id 0"
    arguments = ["--input", str(source), "--ckpt", str(path), *flags.split()]
    masks = str(tmp_path / "test_results")
    assert predict.main([*arguments, "--save_val_results_to", masks, "--device", "cpu"]) == 0
    found = np.array(Image.open(tmp_path / "test_results" / "x.png"))
    assert np.array_equal(found, expected_labels(old, picture))
    wrong = ["--input", str(source), "--ckpt", str(path), "--model", "deeplabv3_resnet50"]
    assert predict.main([*wrong, "--output", str(tmp_path / "m2")]) == 2
    assert "it fits: deeplabv3plus_mobilenet (19 classes)" in capsys.readouterr().err
    assert not (tmp_path / "m2").exists()


def test_contradicting_flags_and_missing_checkpoints_are_errors(
    call, picture, tmp_path: Path, capsys
) -> None:
    source = tmp_path / "x.png"
    Image.fromarray(picture).save(source)
    assert call(source, "--model", "deeplabv3_resnet50") == 2
    assert "holds deeplabv3plus_mobilenet, not --model " in capsys.readouterr().err
    assert call(source, "--ckpt", str(tmp_path / "no.pth")) == 2
    assert "no.pth" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()
