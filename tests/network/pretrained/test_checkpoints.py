"""Checkpoints of whole models, ours and the predecessor's: recognized, renamed, loaded, refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from network import create_model, load_checkpoint
from network.pretrained import (
    load_model_state,
    matching_models,
    predecessor_build_args,
    read_file,
    state_of,
)

PLUS = "deeplabv3plus_mobilenet"


def test_own_checkpoint(tmp_path, own_checkpoint):
    args = {"num_classes": 2, "output_stride": 8, "separable_conv": True, "aspp_rates": (1, 2, 3)}
    model = create_model("deeplabv3_resnet18", **args)
    model(torch.randn(2, 3, 33, 33))  # moves the running statistics
    model.eval()
    torch.save(own_checkpoint(model), tmp_path / "a.pth")
    again = load_checkpoint(tmp_path / "a.pth")
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert not again.training
    assert again.name == "deeplabv3_resnet18" and again.build_args == model.build_args
    assert again.class_names == ("road", "sky")
    assert again.palette.dtype == np.uint8 and again.palette.shape == (256, 3)
    assert again.palette[1].tolist() == [3, 4, 5]
    assert again.normalize(torch.ones(1, 3, 1, 1)).flatten().tolist() == pytest.approx(
        [0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6]
    )
    assert again.mean == (0.1, 0.2, 0.3) and again.std == (0.4, 0.5, 0.6)
    other = load_checkpoint(tmp_path / "a.pth", output_stride=32)
    assert other.build_args["output_stride"] == 32 and other.build_args["separable_conv"] is True


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (b"_rebuild_tensor_v2", "damaged, or was saved with"),
        (np.arange(5_000, 5_010).tobytes(), "damaged, or was saved with"),
        (b"PK\1\2", "not a checkpoint, or it is damaged"),
    ],
)
def test_a_changed_byte_is_noticed(place, message, tmp_path):
    """In the names, in a tensor, in the directory at the end; all are damage, nothing worse."""
    path = tmp_path / "model.pth"
    torch.save({"model_state": {"weight": torch.arange(10_000)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(place) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"model.pth is {message}"):
        read_file(path)


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError(5, "Input/output error")

    path = tmp_path / "model.pth"
    torch.save({}, path)
    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(OSError, match=r"Input/output error: .*model\.pth"):
        read_file(path)


def test_own_checkpoint_keeps_backbone_args(mobilenet, tmp_path, own_checkpoint):
    torch.save(own_checkpoint(mobilenet), tmp_path / "a.pth")
    again = load_checkpoint(tmp_path / "a.pth", output_stride=8)
    assert again.build_args["backbone_args"] == {"legacy_padding": True}


def test_own_checkpoint_of_another_model_or_format(mobilenet, tmp_path, own_checkpoint):
    torch.save(own_checkpoint(mobilenet), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth holds deeplabv3plus_mobilenet, not deeplabv3_res"):
        load_checkpoint(tmp_path / "a.pth", name="deeplabv3_resnet18")
    torch.save(own_checkpoint(mobilenet, format=2), tmp_path / "b.pth")
    with pytest.raises(ValueError, match="has checkpoint format 2; this version reads 1"):
        load_checkpoint(tmp_path / "b.pth")


def test_averaged_weights_go_first(mobilenet, tmp_path, own_checkpoint):
    state = mobilenet.state_dict()
    average = {key: value * 0.5 for key, value in state.items()}
    content = own_checkpoint(mobilenet, ema_state=average)
    torch.save(content, tmp_path / "a.pth")
    model = load_checkpoint(tmp_path / "a.pth")
    backbone = create_model(PLUS, pretrained=tmp_path / "a.pth").backbone.state_dict()
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, state[key] * 0.5), key
            if key.startswith("backbone."):
                assert torch.equal(backbone[key.removeprefix("backbone.")], value), key
    for saved, averaged, expected in (
        (content, True, average),
        (content, False, state),
        (own_checkpoint(mobilenet), True, state),
        (own_checkpoint(mobilenet, ema_state=None), True, state),
        (own_checkpoint(mobilenet, ema_state={}), True, state),
    ):
        found = state_of(saved, source="a.pth", averaged=averaged)
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_predecessors_checkpoint(predecessor_file, mobilenet):
    model = load_checkpoint(predecessor_file, name=PLUS)
    assert model.build_args["backbone_args"] == {"legacy_padding": True}
    assert model.build_args["num_classes"] == 19
    assert model.class_names is None and model.palette is None
    assert model.normalize(torch.ones(3, 1, 1)).flatten()[0].item() == pytest.approx(
        (1 - 0.485) / 0.229
    )
    x = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        assert torch.equal(model(x), mobilenet(x))
        other = create_model(PLUS, num_classes=19).eval()  # with ordinary padding it would not be
        other.load_state_dict(dict(mobilenet.state_dict()))
        assert (other(x) - mobilenet(x)).abs().max() > 1e-3
    content = read_file(predecessor_file)
    assert float(content["best_score"]) == 0.721 and content["cur_itrs"] == 30000


def test_predecessors_checkpoint_without_a_name_says_what_it_fits(predecessor_file):
    with pytest.raises(ValueError) as error:
        load_checkpoint(predecessor_file)
    assert "does not say which model it holds; give its name" in str(error.value)
    assert "(it fits: deeplabv3plus_mobilenet (19 classes))" in str(error.value)


def test_numpy_scalar_under_its_old_and_new_module_name(tmp_path):
    """NumPy 2 renamed the module that pickles name."""
    # The archive's checksums would notice a changed name, so write the old, bare format.
    torch.save(
        {"best_score": np.float64(0.5), "x": torch.ones(1)},
        tmp_path / "b.pth",
        _use_new_zipfile_serialization=False,
    )
    raw = (tmp_path / "b.pth").read_bytes()
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        swapped = re.sub(rb"numpy\._?core\.multiarray", name, raw)
        (tmp_path / "c.pth").write_bytes(swapped)
        assert float(read_file(tmp_path / "c.pth")["best_score"]) == 0.5


def test_predecessor_build_args(mobilenet):
    assert predecessor_build_args(PLUS, mobilenet.state_dict()) == {
        "num_classes": 19,
        "separable_conv": False,
        "backbone_args": {"legacy_padding": True},
    }
    with torch.device("meta"):
        resnet = create_model("deeplabv3_resnet18", separable_conv=True, num_classes=3)
    assert predecessor_build_args("deeplabv3_resnet18", resnet.state_dict()) == {
        "num_classes": 3,
        "separable_conv": True,
        "backbone_args": {},
    }


def test_predecessors_hrnet_names(tmp_path):
    """Its transitions 2 and 3 hold the new branch only, and its stem lacks a ReLU."""
    name = "deeplabv3plus_hrnetv2_18_small"
    args = {"num_classes": 4, "backbone_args": {"stem_relu": False}}
    model = create_model(name, **args).eval()
    state = {
        re.sub(r"transition([23])\.\1\.0\.", r"transition\1.", key): value
        for key, value in model.state_dict().items()
    }
    assert "backbone.transition3.0.weight" in state and len(state) == len(model.state_dict())
    torch.save({"model_state": state}, tmp_path / "h.pth")
    assert matching_models(state) == [f"{name} (4 classes)"]
    again = load_checkpoint(tmp_path / "h.pth", name=name)
    assert again.build_args["backbone_args"] == {"stem_relu": False}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


# Tensors that do not fit.


@pytest.mark.parametrize(("hint", "end"), [("", ""), ("do this", "; do this")])
def test_another_class_count_says_both(hint, end, mobilenet):
    state = mobilenet.state_dict()
    with pytest.raises(ValueError) as error:
        load_model_state(create_model(PLUS), state, source="X.pth", classes_hint=hint)
    assert str(error.value) == (
        f"X.pth has 19 classes, but deeplabv3plus_mobilenet was built for 21{end}"
    )


@pytest.mark.parametrize(("name", "num_classes"), [(PLUS, 5), ("deeplabv3_mobilenet", 19)])
def test_finetune_loads_all_but_the_final_classifier(name, num_classes):
    last = {PLUS: "classifier.classifier.3.", "deeplabv3_mobilenet": "classifier.classifier.4."}
    theirs = create_model(name, num_classes=19).state_dict()
    model = create_model(name, num_classes=num_classes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_model_state(model, theirs, source="X.pth", finetune=True)
    kept = [key for key in before if key.startswith(last[name])]
    assert len(kept) == 2
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in kept else theirs[key]), key


def test_finetune_refuses_another_model(mobilenet):
    with torch.device("meta"):
        model = create_model("deeplabv3plus_resnet18", num_classes=5)
    with pytest.raises(ValueError, match=r"it fits: deeplabv3plus_mobilenet \(19 classes\)"):
        load_model_state(model, mobilenet.state_dict(), source="X.pth", finetune=True)
    state = mobilenet.state_dict()
    del state["backbone.low_level_features.2.conv.2.weight"]
    with pytest.raises(ValueError, match="no tensor backbone.low_level_features.2.conv.2.weight"):
        load_model_state(create_model(PLUS), state, source="X.pth", finetune=True)


def test_another_model_says_what_it_fits(mobilenet):
    with torch.device("meta"):
        model = create_model("deeplabv3plus_resnet50", num_classes=19)
        separable = create_model(PLUS, num_classes=19, separable_conv=True)
    with pytest.raises(ValueError) as error:
        load_model_state(model, mobilenet.state_dict(), source="X.pth")
    assert str(error.value) == (
        "X.pth does not fit deeplabv3plus_resnet50; it fits: deeplabv3plus_mobilenet (19 classes)"
    )
    with pytest.raises(ValueError, match="mobilenet with separable_conv; it fits: deeplabv3plus_m"):
        load_model_state(separable, mobilenet.state_dict(), source="X.pth")
    assert matching_models(separable.state_dict()) == [f"{PLUS} (19 classes, separable_conv)"]
    assert matching_models(model.state_dict()) == ["deeplabv3plus_resnet50 (19 classes)"]


def test_a_missing_tensor_is_named(mobilenet):
    state = mobilenet.state_dict()
    del state["backbone.low_level_features.2.conv.2.weight"]
    model = create_model(PLUS, num_classes=19)
    with pytest.raises(ValueError, match="no tensor backbone.low_level_features.2.conv.2.weight"):
        load_model_state(model, state, source="X.pth")


def test_missing_batch_counters_and_a_wrapper_are_fine(mobilenet):
    state = {
        f"module.{key}": value
        for key, value in mobilenet.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    model = create_model(PLUS, num_classes=19)
    load_model_state(model, state, source="X.pth")
    for key, value in mobilenet.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_a_checkpoint_that_does_not_say_how_to_build_its_model_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    weight = torch.zeros(1)
    torch.save({"format": 1, "model_name": PLUS, "model_state": {"w": weight}}, path)
    with pytest.raises(ValueError, match="x.pth says which model it holds, but not how to build"):
        load_checkpoint(path)
