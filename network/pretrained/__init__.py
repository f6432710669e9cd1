"""Published weights and checkpoints: read, match to a model, fetch, load."""

from .checkpoint import FORMAT, BuildArgs, Checkpoint, RngState, State
from .files import has_average, read_file, state_of
from .loading import (
    check_pretrained,
    default_weights,
    load_backbone_weights,
    load_checkpoint,
    load_model_state,
    load_pretrained,
    predecessor_build_args,
    rebuild,
)
from .tensors import has_aux_head, matching_models
from .weights import WeightUrls, describe
