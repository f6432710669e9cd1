"""Commands to type: this one, the same on several GPUs, and the one that resumes the run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence

from utils.options.programs import fields
from utils.runtime.console import one_line


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command as the user could type it again."""
    return shlex.join(["python", "main.py", *(sys.argv[1:] if argv is None else argv)])


def torchrun_command(command: str, gpu_ids: str) -> str:
    """`command` started with torchrun, one process for each of `gpu_ids` (as in "0,1")."""
    words = _without(shlex.split(command), ["gpu_id"])
    return _with_torchrun(words, processes=gpu_ids.count(",") + 1)


def resume_command(command: str, *, processes: int) -> str:
    """The command that continues the run that `command` started."""
    start = [name for name, field in fields().items() if field.metadata["starts_run"]]
    words = [*_without(shlex.split(command), start), "--continue_training"]
    return to_type(words) if processes == 1 else _with_torchrun(words, processes=processes)


def _with_torchrun(words: Sequence[str], *, processes: int) -> str:
    return to_type(["torchrun", "--nproc_per_node", str(processes), *words[1:]])


def to_type(words: Sequence[str]) -> str:
    """The command as one line to type; line ends in names are escapes."""
    return one_line(shlex.join(words))


def _without(words: Sequence[str], names: Iterable[str]) -> list[str]:
    """`words` without the options `names` and their values."""
    known, kept, skipped = fields(), [], 0
    for word in words:
        name, equals, _ = word.removeprefix("--").partition("=")
        if skipped:
            skipped -= 1
        elif word.startswith("--") and name in names:
            skipped = 0 if equals or known[name].default is False else 1
        else:
            kept.append(word)
    return kept
