"""Files: read or refused; weights of a backbone: recognized, renamed, loaded."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision

from network import create_model, load_checkpoint, modeling
from network.pretrained import load_backbone_weights, read_file

PLUS = "deeplabv3plus_mobilenet"


class CodeOnLoad:
    """Makes a folder when unpickled."""

    def __init__(self, path: object) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


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
    with pytest.raises(ValueError, match="is not a checkpoint, or it is damaged") as error:
        read_file(predecessor_file)
    assert "\n" not in str(error.value) and str(predecessor_file) in str(error.value)


def test_other_files_are_one_clear_line(tmp_path, recwarn):
    generator = np.random.default_rng(0)
    contents = [b"hello", b"PK\x03\x04", b"\x89PNG\r\n", b"\x80\x02}q\x00.", b"\x80\x04hello"]
    contents += [generator.bytes(generator.integers(1, 300)) for _ in range(50)]
    for content in contents:
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / "x.pth"))) as error:
            load_checkpoint(tmp_path / "x.pth", name=PLUS)
        assert "\n" not in str(error.value)
    assert len(recwarn) == 0


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
        assert "left out: 1 (other parts of its model), 2 (its classifier); they were" in report


def test_timm_mobilenet_file(tmp_path):
    """Blocks are counted by row there; the function is the same."""
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv2_100", features_only=True, out_indices=(1, 4))
    whole = timm.create_model("mobilenetv2_100")
    for tensor in whole.state_dict().values():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.copy_(0.5 + torch.rand(len(tensor)))
    theirs.load_state_dict(whole.state_dict(), strict=False)
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "model.safetensors")
    model = create_model("deeplabv3plus_mobilenet", output_stride=32)
    report = load_backbone_weights(model, tmp_path / "model.safetensors")
    assert "306 of 314 tensors used for mobilenet, left out: 8 (its classifier)" in report
    x = torch.randn(1, 3, 65, 98, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.double().eval()(x)
        features = model.double().eval().backbone(x)
    for got, wanted in zip(features.values(), expected, strict=True):
        assert got.shape == wanted.shape and wanted.abs().max() > 0
        assert (got - wanted).abs().max() <= 1e-9 * wanted.abs().max()


def test_safetensors_file(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)
    model = create_model("deeplabv3_resnet18", pretrained=path)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    content = path.read_bytes()
    for damaged in (content[:1000], content[:-1], b"", b"hello", content[:8]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a checkpoint, or it is damaged") as error:
            create_model("deeplabv3_resnet18", pretrained=path)
        assert "\n" not in str(error.value)


def test_backbone_of_a_whole_checkpoint(predecessor_file, mobilenet, tmp_path, own_checkpoint):
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
    with pytest.raises(
        ValueError, match=r"does not fit resnet18: it has none of its tensors, such as conv1"
    ):
        load_backbone_weights(model, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])  # nothing is loaded by halves

    torch.save({**state, "extra.weight": torch.ones(1)}, path)
    assert "left out: 2 (its classifier), 1 (unknown)" in load_backbone_weights(model, path)
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    assert "100 of 102 tensors used" in load_backbone_weights(model, path)


def test_tensors_of_another_variant_are_an_error(tmp_path):
    # The authors' VoVNetV2-39 gates every module, the "b" form the last of a stage only.
    everywhere = create_model("deeplabv3_vovnetv2_39", num_classes=2).backbone.state_dict()
    torch.save(everywhere, tmp_path / "vovnet39.pth")
    with pytest.raises(ValueError, match="does not fit vovnetv2_39b: .* is extra"):
        create_model("deeplabv3_vovnetv2_39b", num_classes=2, pretrained=tmp_path / "vovnet39.pth")


def test_mean_and_std_of_our_own_checkpoint_come_with_its_backbone(tmp_path):
    model = create_model("deeplabv3_xception41", num_classes=2)
    assert model.mean == (0.5, 0.5, 0.5)
    content = {"format": 1, "model_name": model.name, "model_state": model.state_dict()}
    content |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "build_args": model.build_args}
    torch.save(content, tmp_path / "own.pth")
    load_backbone_weights(model, tmp_path / "own.pth")
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


SEGMENTATION_HEADS = ["model.last_layer.3.weight", "decode_head.conv_seg.weight"]
SEGMENTATION_HEADS += ["model.ocr_distri_head.w"]
OTHER_HEADS = ["incre_modules.0.w", "decoder.block.weight"]


FIRST = (SEGMENTATION_HEADS[0], OTHER_HEADS[0])


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(head, marks=[] if head in FIRST else [pytest.mark.slow])
        for head in [*SEGMENTATION_HEADS, *OTHER_HEADS]
    ],
)
def test_hrnet_computes_as_its_files_were_trained(head, tmp_path):
    """Segmentation files with bilinear fusion, all others with nearest; and it is said."""
    name, bilinear = "deeplabv3_hrnetv2_18_small", head in SEGMENTATION_HEADS
    expected = create_model(name, backbone_args={"fuse_mode": "bilinear"} if bilinear else {})
    prefix = head.split(".")[0] + "." if head.startswith("model.") else "backbone."
    state = {prefix + key: value for key, value in expected.backbone.state_dict().items()}
    torch.save({"state_dict": state | {head: torch.ones(2)}}, tmp_path / "h.pth")
    model = create_model(name)
    report = load_backbone_weights(model, tmp_path / "h.pth")
    assert ("trained with backbone_args={'fuse_mode': 'bilinear'}, and so" in report) is bilinear
    assert model.build_args == expected.build_args
    x = torch.randn(1, 3, 65, 98)
    with torch.no_grad():
        assert torch.equal(model.eval().backbone(x)["out"], expected.eval().backbone(x)["out"])
    asked = create_model(name, backbone_args={"fuse_mode": "nearest"})
    report = load_backbone_weights(asked, tmp_path / "h.pth")
    assert ("but the model was built with {'fuse_mode': 'nearest'}" in report) is bilinear
    assert asked.build_args["backbone_args"] == {"fuse_mode": "nearest"}
