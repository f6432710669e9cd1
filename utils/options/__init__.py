"""The command line of `main.py` and `predict.py`: options, checks, and commands to type."""

from .checks import changes_on_resume, check_options, without_effect
from .commands import command_line, resume_command, to_type, torchrun_command
from .data_group import DataOptions
from .groups import ModelOptions, OptimOptions, RunOptions, VisOptions
from .parser import from_namespace, main_parser, parse_main, parse_predict, predict_parser
from .programs import Options, PredecessorOptions, PredictOptions, changed, flat
