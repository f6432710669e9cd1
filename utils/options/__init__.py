"""The command line of `main.py` and `predict.py`: options, checks, and commands to type."""

from .checks import check_options, check_ranges, without_effect
from .commands import command_line, resume_command, torchrun_command
from .groups import (
    DataOptions,
    ModelOptions,
    OptimOptions,
    Options,
    PredecessorOptions,
    PredictOptions,
    RunOptions,
    VisOptions,
    flat,
    parse_main,
    parse_predict,
)

__all__ = [
    "DataOptions",
    "ModelOptions",
    "OptimOptions",
    "Options",
    "PredecessorOptions",
    "PredictOptions",
    "RunOptions",
    "VisOptions",
    "check_options",
    "check_ranges",
    "command_line",
    "flat",
    "parse_main",
    "parse_predict",
    "resume_command",
    "torchrun_command",
    "without_effect",
]
