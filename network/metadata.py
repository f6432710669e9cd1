"""What a state dict says, beside its tensors, about how its network was built.

MobileNetV2 and HRNet compute different things with the same tensors, by their build arguments. So
our state dicts note those in `_metadata`, which torch saves with them, and loading one follows the
note. VainF/DeepLabV3Plus-Pytorch saved the same tensors without a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ._deeplab import DeepLabV3
from .backbone import BACKBONES, Backbone

NOTE = "backbone_args"
PREDECESSOR = "VainF/DeepLabV3Plus-Pytorch"


def backbone_of(model: DeepLabV3) -> tuple[str, type[Backbone]]:
    """Name and network of the model's backbone."""
    name = model.name.partition("_")[2]
    return name, BACKBONES[name].network


def noted_args(
    metadata: Mapping[str, Any], network: type[Backbone], *, path: str = ""
) -> Mapping[str, object] | None:
    """Build arguments by the `_metadata` of a state dict, whose model is at `path`.

    None where nothing is said: `_metadata` is lost when somebody makes a new dict of the tensors.
    """
    own = metadata.get(path) or {}
    if isinstance(own.get(NOTE), Mapping):  # perhaps of another family, which the tensors will show
        known = network.complete_args("", {})
        return {key: value for key, value in own[NOTE].items() if key in known}
    if f"{path}.normalize".lstrip(".") in metadata:
        return {}  # ours, from before there was a note
    return network.predecessor_args if "version" in own else None


def set_backbone_args(model: DeepLabV3, args: Mapping[str, object]) -> bool:
    """Let the model's backbone compute as if built with `args`; returns whether that changed it."""
    name, network = backbone_of(model)
    before = network.complete_args(name, model.build_args["backbone_args"])
    after = network.complete_args(name, args)
    if after == before:
        return False
    configure: Callable[..., None] = network.configure  # each family has arguments of its own
    configure(model.backbone, **after)
    model.build_args["backbone_args"] = dict(args)
    return True


def note_args(
    model: DeepLabV3, state: Mapping[str, Tensor], prefix: str, metadata: dict[str, Any]
) -> None:
    """Note the build arguments in `metadata`, the model's; a hook of `state_dict`."""
    metadata[NOTE] = dict(model.build_args["backbone_args"])


def follow_note(
    model: DeepLabV3, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any], *_: object
) -> None:
    """Make the model fit the tensors that come; a hook of `load_state_dict`.

    The tensors get the family's names. A note is followed. Without one, arguments that the user
    built the model with stay; else tensors of the predecessor are computed with as there. A line
    says so, or what was assumed because nothing tells where the tensors come from.
    """
    name, network = backbone_of(model)
    if not network.predecessor_args:
        return
    below = prefix + "backbone."
    old_names = [key for key in state if key.startswith(below)]
    is_old = any(re.match(network.predecessor_names, key.removeprefix(below)) for key in old_names)
    for key in old_names:
        state[below + network.own_name(key.removeprefix(below))] = state.pop(key)
    given = model.build_args["backbone_args"]
    if NOTE not in metadata and not given.keys().isdisjoint(network.predecessor_args):
        return
    whole = getattr(state, "_metadata", None) or {prefix[:-1]: metadata}
    noted = network.predecessor_args if is_old else noted_args(whole, network, path=prefix[:-1])
    if noted is None:
        print(
            f"{model.name}: these weights do not say how they were trained; assumed: "
            f"backbone_args={network.complete_args(name, given)}, as the model is built; for "
            f"weights of {PREDECESSOR}, build it with {dict(network.predecessor_args)}"
        )
    elif set_backbone_args(model, noted):
        said = f"{model.name}: backbone_args={dict(noted)}, as the weights were trained"
        if NOTE not in metadata:
            said += f" in {PREDECESSOR}"
        if NOTE not in metadata and not is_old:
            said += (
                "; this is assumed, as they have no note: weights that early versions of this "
                "program saved look the same, and network.load_checkpoint tells them apart"
            )
        print(said)


def register(model: DeepLabV3) -> None:
    """Let the model's state dicts state how it is built, and follow those that it loads."""
    model.register_state_dict_post_hook(note_args)
    model.register_load_state_dict_pre_hook(follow_note)
