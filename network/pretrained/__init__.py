"""Published weights and checkpoints: read, match to a model, fetch, load."""

from .checkpoint import FORMAT, BuildArgs, Checkpoint, RngState, State
from .contents import has_average, output_stride_of, state_of, value_problem
from .files import read_file
from .loading import (
    check_pretrained,
    default_weights,
    load_backbone_weights,
    load_checkpoint,
    load_model_state,
    load_pretrained,
    rebuild,
)
from .predecessor import MISBUILT, is_misbuilt, origin_line, predecessor_build_args
from .tensors import has_aux_head, matching_models
from .weights import describe
