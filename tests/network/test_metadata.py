"""`model.load_state_dict(torch.load(FILE)["model_state"])`, for the predecessor's and our files."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from network import create_model, load_checkpoint, modeling
from network.pretrained import load_backbone_weights

MOBILENET, HRNET = "deeplabv3plus_mobilenet", "deeplabv3_hrnetv2_18_small"
OLD_ARGS = {MOBILENET: {"legacy_padding": True}, HRNET: {"stem_relu": False}}


def saved_there(model: nn.Module) -> dict[str, Tensor]:
    """The tensors as the predecessor saves them: its names, its module tree, no notes."""
    state = model.state_dict()
    metadata = {path: {"version": entry["version"]} for path, entry in state._metadata.items()}
    del metadata["normalize"]
    shorter = {
        re.sub(r"transition([23])\.\1\.0\.", r"transition\1.", k): v for k, v in state.items()
    }
    state.clear()
    state.update(shorter)
    state._metadata = metadata
    return state


@pytest.fixture(params=[MOBILENET, HRNET])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def old(name: str, randomize) -> nn.Module:
    """A network that computes as the predecessor's."""
    return randomize(create_model(name, backbone_args=OLD_ARGS[name])).eval().float().double()


def entry_point(name: str) -> nn.Module:
    return modeling.__dict__[name](num_classes=21, output_stride=16 if "mobile" in name else 4)


def loaded(state: dict[str, Tensor], path: Path, model: nn.Module) -> nn.Module:
    torch.save({"model_state": state, "cur_itrs": 1}, path)
    model.double().load_state_dict(torch.load(path)["model_state"])
    return model.eval()


def assert_equal(one: nn.Module, two: nn.Module, images) -> None:
    x = images(65, 98, count=1)
    with torch.no_grad():
        assert torch.equal(one(x), two(x))


def test_an_old_file_gives_the_old_network(name, old, images, tmp_path, capsys):
    model = loaded(saved_there(old), tmp_path / "old.pth", entry_point(name))
    assert_equal(model, old, images)
    said = f"{name}: backbone_args={OLD_ARGS[name]}, as the weights were trained in VainF/DeepL"
    printed = capsys.readouterr().out
    assert printed.startswith(said) and printed.count("\n") == 1
    assert ("this is assumed" in printed) == (name == MOBILENET)  # HRNet's old names tell
    # What it saves is old, too, by this route and by the others.
    again = loaded(model.state_dict(), tmp_path / "again.pth", entry_point(name))
    assert_equal(again, old, images)
    assert_equal(copy.deepcopy(again), old, images)
    assert_equal(pickle.loads(pickle.dumps(again)), old, images)
    wrapped = nn.DataParallel(entry_point(name).double().eval())
    wrapped.load_state_dict(nn.DataParallel(again).state_dict())
    assert_equal(wrapped.module, old, images)
    assert_equal(load_checkpoint(tmp_path / "again.pth", name=name).double(), old, images)


def test_a_new_file_gives_a_new_network(name, old, images, tmp_path, capsys, randomize):
    new = randomize(create_model(name)).eval().float().double()
    assert_equal(loaded(new.state_dict(), tmp_path / "new.pth", entry_point(name)), new, images)
    assert capsys.readouterr().out == ""
    assert_equal(load_checkpoint(tmp_path / "new.pth", name=name).double(), new, images)
    assert capsys.readouterr().out == ""
    # It makes an old network a new one, too, and says so.
    assert_equal(loaded(new.state_dict(), tmp_path / "new.pth", old), new, images)
    assert capsys.readouterr().out == f"{name}: backbone_args={{}}, as the weights were trained\n"


def test_our_files_of_before_there_were_notes(name, old, images, tmp_path, capsys, randomize):
    new = randomize(create_model(name)).eval()
    state = new.state_dict()
    del state._metadata[""]["backbone_args"]
    assert_equal(loaded(state, tmp_path / "x.pth", entry_point(name)), new, images)
    state = old.state_dict()
    del state._metadata[""]["backbone_args"]
    asked = create_model(name, backbone_args=OLD_ARGS[name])
    assert_equal(loaded(state, tmp_path / "x.pth", asked), old, images)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("assign", [False, True])
def test_tensors_that_say_nothing_get_a_line(assign, images, capsys, randomize):
    args = OLD_ARGS[MOBILENET]
    old = randomize(create_model(MOBILENET, backbone_args=args)).eval()
    bare = dict(old.state_dict())
    model = create_model(MOBILENET).double().eval()
    model.load_state_dict(bare, assign=assign)
    printed = capsys.readouterr().out
    assert "do not say how they were trained; assumed: backbone_args={'legacy_padding': " in printed
    assert f"build it with {args}\n" in printed and printed.count("\n") == 1
    x = images(65, 98, count=1)
    with torch.no_grad():
        assert (model(x) - old(x)).abs().max() > 1e-3
    asked = create_model(MOBILENET, backbone_args=args).double().eval()
    asked.load_state_dict(bare)
    assert_equal(asked, old, images)
    resnet = create_model("deeplabv3_resnet18")
    resnet.load_state_dict(dict(resnet.state_dict()))
    assert capsys.readouterr().out == ""


def test_old_hrnet_names_alone_tell(images, capsys, randomize):
    old = randomize(create_model(HRNET, backbone_args=OLD_ARGS[HRNET])).eval()
    model = create_model(HRNET).double().eval()
    model.load_state_dict(dict(saved_there(old)))
    assert_equal(model, old, images)
    assert "as the weights were trained in VainF" in capsys.readouterr().out


def test_what_the_user_asked_for_stays(capsys, images, randomize):
    old = randomize(create_model(MOBILENET, backbone_args=OLD_ARGS[MOBILENET])).eval()
    model = create_model(MOBILENET, backbone_args={"legacy_padding": False}).double().eval()
    model.load_state_dict(saved_there(old))
    assert model.build_args["backbone_args"] == {"legacy_padding": False}
    assert capsys.readouterr().out == ""


def test_a_backbone_takes_over_how_its_weights_were_trained(name, old, images, tmp_path):
    """From a whole file; a network with arguments of its own keeps those."""
    contents = {
        "old.pth": {"model_state": saved_there(old), "cur_itrs": 1},
        "noted.pth": old.state_dict(),
        "ours.pth": {"format": 1, "model_name": name, "build_args": old.build_args}
        | {"model_state": dict(old.state_dict())},
    }
    for file, content in contents.items():
        torch.save(content, tmp_path / file)
        model = create_model(name).double().eval()
        report = load_backbone_weights(model, tmp_path / file)
        assert report.endswith(
            f"trained with backbone_args={OLD_ARGS[name]}, and so the model now computes"
        )
        x = images(65, 98, count=1)
        with torch.no_grad():
            mine, theirs = model.backbone(x), old.backbone(x)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
        assert model.build_args["backbone_args"] == OLD_ARGS[name]
    key = next(iter(OLD_ARGS[name]))
    asked = create_model(name, backbone_args={key: not OLD_ARGS[name][key]})
    report = load_backbone_weights(asked, tmp_path / "old.pth")
    assert f"; they were trained with backbone_args={OLD_ARGS[name]}, but the model was" in report
    assert asked.build_args["backbone_args"] == {key: not OLD_ARGS[name][key]}
