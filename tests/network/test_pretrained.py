"""Weight files and checkpoints: recognised, renamed, loaded, refused."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import timm
import torch
import torchvision

import network
from network import create_model, load_checkpoint, modeling
from network.pretrained import (
    load_backbone_weights,
    load_model_state,
    matching_models,
    predecessor_build_args,
    read_file,
)

PLUS = "deeplabv3plus_mobilenet"


@pytest.fixture(scope="module")
def mobilenet():
    torch.manual_seed(1)
    return create_model(PLUS, num_classes=19, backbone_args={"legacy_padding": True}).eval()


@pytest.fixture
def predecessor_file(mobilenet, tmp_path):
    """As the predecessor saves it, its NumPy number included."""
    path = tmp_path / "best_deeplabv3plus_mobilenet_cityscapes_os16.pth"
    content = {
        "cur_itrs": 30000,
        "model_state": mobilenet.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler_state": {"last_epoch": 3},
        "best_score": np.float64(0.721),
    }
    torch.save(content, path)
    return path


def own_checkpoint(model: torch.nn.Module, **changes: object) -> dict[str, object]:
    return {
        "format": 1,
        "model_name": model.name,
        "build_args": model.build_args,
        "class_names": ["road", "sky"],
        "palette": torch.arange(768, dtype=torch.uint8).reshape(256, 3),
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "model_state": model.state_dict(),
        "best_score": 0.5,
        **changes,
    }


class CodeOnLoad:
    """Makes a folder when unpickled."""

    def __init__(self, path: object) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


# Reading.


@pytest.mark.parametrize("where", ["state", "file"])
def test_a_file_that_could_run_code_is_refused(where, tmp_path):
    evil = CodeOnLoad(tmp_path / "was_run")
    path = tmp_path / "evil.pth"
    torch.save({"model_state": evil} if where == "state" else evil, path)
    torch.load(path, weights_only=False)  # it would run:
    (tmp_path / "was_run").rmdir()
    with pytest.raises(ValueError, match="is refused: it asks for .*mkdir, which could run code"):
        read_file(path)
    assert not (tmp_path / "was_run").exists()


def test_a_pickled_model_is_refused(mobilenet, tmp_path):
    torch.save(mobilenet, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="refused: it asks for network._deeplab.DeepLabV3"):
        read_file(tmp_path / "model.pth")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_line(kept, predecessor_file):
    content = predecessor_file.read_bytes()
    predecessor_file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match="is no checkpoint, or it is damaged") as error:
        read_file(predecessor_file)
    assert "\n" not in str(error.value) and str(predecessor_file) in str(error.value)


@pytest.mark.filterwarnings("error")
def test_other_files_are_one_clear_line(tmp_path):
    generator = np.random.default_rng(0)
    contents = [b"hello", b"PK\x03\x04", b"\x89PNG\r\n", b"\x80\x02}q\x00."]
    contents += [generator.bytes(generator.integers(1, 300)) for _ in range(50)]
    for content in contents:
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / "x.pth"))) as error:
            network.load_checkpoint(tmp_path / "x.pth", name=PLUS)
        assert "\n" not in str(error.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*missing.pth"):
        read_file(tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="is a folder; give a checkpoint or weight file"):
        read_file(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, not a dict"):
        read_file(tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="holds no tensors"):
        load_checkpoint(tmp_path / "empty.pth")


# Checkpoints.


def test_own_checkpoint(tmp_path):
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


def test_own_checkpoint_keeps_backbone_args(mobilenet, tmp_path):
    torch.save(own_checkpoint(mobilenet), tmp_path / "a.pth")
    again = load_checkpoint(tmp_path / "a.pth", build_args={"output_stride": 8})
    assert again.build_args["backbone_args"] == {"legacy_padding": True}


def test_own_checkpoint_of_another_model_or_format(mobilenet, tmp_path):
    torch.save(own_checkpoint(mobilenet), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth holds deeplabv3plus_mobilenet, not deeplabv3_res"):
        load_checkpoint(tmp_path / "a.pth", name="deeplabv3_resnet18")
    with pytest.raises(ValueError, match="unknown build argument 'classes'; there are"):
        load_checkpoint(tmp_path / "a.pth", build_args={"classes": 3})
    torch.save(own_checkpoint(mobilenet, format=2), tmp_path / "b.pth")
    with pytest.raises(ValueError, match="has checkpoint format 2; this version reads 1"):
        load_checkpoint(tmp_path / "b.pth")


def test_predecessors_checkpoint(predecessor_file, mobilenet):
    model = load_checkpoint(predecessor_file, name=PLUS, build_args={"num_classes": 19})
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
        other.load_state_dict(mobilenet.state_dict())
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


def test_another_class_count_says_both(mobilenet):
    with pytest.raises(ValueError) as error:
        load_model_state(create_model(PLUS), mobilenet.state_dict(), source="X.pth")
    assert str(error.value) == "X.pth has 19 classes, but deeplabv3plus_mobilenet was built for 21"


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


# Weights of a backbone.


def test_torchvision_resnet_file(tmp_path):
    theirs = torchvision.models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    model = create_model("deeplabv3_resnet18", output_stride=32)
    report = load_backbone_weights(model, tmp_path / "resnet18.pth")
    x = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        expected = torch.nn.Sequential(*list(theirs.children())[:-2])(x)
        assert torch.equal(model.eval().backbone(x)["out"], expected)
    assert report.endswith("120 of 122 tensors used for resnet18, left out: 2 (its classifier)")


def test_torchvision_mobilenet_file(tmp_path, capsys):
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    path = tmp_path / "mobilenet_v2.pth"
    torch.save({"state_dict": theirs.state_dict()}, path)
    model = modeling.deeplabv3plus_mobilenet(output_stride=32, pretrained_backbone=path).eval()
    x = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        features = model.backbone(x)
        assert torch.equal(features["low_level"], theirs.features[:4](x))
        assert torch.equal(features["out"], theirs.features[:18](x))
    printed = capsys.readouterr().out
    assert "306 of 314 tensors used for mobilenet, left out: 8 (its classifier)\n" in printed


@pytest.mark.parametrize("layout", ["classification", "segmentation"])
def test_hrnet_files(layout, tmp_path):
    theirs = timm.create_model("hrnet_w18_small").eval()
    state, left_out = theirs.state_dict(), 552 - 426
    if layout == "segmentation":  # every tensor under "model.", the last layer another
        state = {k: v for k, v in state.items() if not re.match("incre|downs|final|classif", k)}
        state |= {
            "last_layer.0.weight": torch.ones(240, 240, 1, 1),
            "last_layer.0.bias": torch.ones(3),
        }
        state = {f"model.{key}": value for key, value in state.items()}
        state, left_out = {"state_dict": {**state, "loss.weight": torch.ones(19)}}, 3
    torch.save(state, tmp_path / "hrnet.pth")
    model = create_model("deeplabv3_hrnetv2_18_small").eval()
    report = load_backbone_weights(model, tmp_path / "hrnet.pth")
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key
    assert f"426 of {426 + left_out} tensors used for hrnetv2_18_small, left out: " in report
    if layout == "segmentation":
        assert report.endswith("left out: 1 (other parts of its model), 2 (its classifier)")


def test_backbone_of_a_whole_checkpoint(predecessor_file, mobilenet, tmp_path):
    model = create_model("deeplabv3_mobilenet", num_classes=3)
    report = load_backbone_weights(model, predecessor_file)
    assert "306 of 356 tensors used for mobilenet, left out: 50 (other parts of its mo" in report
    assert "trained with backbone_args={'legacy_padding': True}" in report
    for key, value in mobilenet.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value), key
    torch.save(own_checkpoint(mobilenet), tmp_path / "own.pth")
    report = load_backbone_weights(model, tmp_path / "own.pth")
    assert "306 of 356" in report and "trained with" not in report


def test_backbone_files_that_do_not_fit(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    path = tmp_path / "r.pth"
    model = create_model("deeplabv3_resnet18")
    before = {key: value.clone() for key, value in model.state_dict().items()}

    torch.save({k: v for k, v in state.items() if k != "layer2.0.bn1.running_mean"}, path)
    with pytest.raises(ValueError, match="fit resnet18: no tensor layer2.0.bn1.running_mean"):
        load_backbone_weights(model, path)
    torch.save({**state, "layer3.1.conv1.weight": torch.ones(256, 256, 1, 1)}, path)
    with pytest.raises(ValueError, match=r"layer3.1.conv1.weight is \(256, 256, 1, 1\), not \(256"):
        load_backbone_weights(model, path)
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), path)
    with pytest.raises(ValueError, match=r"does not fit resnet18: no tensor .* \(and \d+ more\)"):
        load_backbone_weights(model, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])  # nothing is loaded by halves

    torch.save({**state, "extra.weight": torch.ones(1)}, path)
    assert "left out: 2 (its classifier), 1 (unknown)" in load_backbone_weights(model, path)
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    assert "100 of 102 tensors used" in load_backbone_weights(model, path)
