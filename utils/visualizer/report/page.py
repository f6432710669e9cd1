"""The pages: report.html of a run, and the comparison of several."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.runtime.console import size_text
from utils.runtime.files import write_bytes

from ..colors import RUNS
from ..history import SCORE, best_validation, series
from ..record import Record
from . import data
from .words import command_text, score_text, time_text, value_text

HERE = Path(__file__).parent
MAX_BYTES = 1_000_000  # of a page, so that it can be mailed
# Width and JPEG quality of the samples: the first pair with which the page is small enough.
SIZES = ((512, 80), (512, 65), (448, 55), (384, 50), (320, 40), (256, 30))
ABOUT_RUN = ("command", "run")  # entries of options.json that are no options
FILES = ("page.css", "charts.js", "page.js")


def save_report(folder: Path) -> None:
    """Write `report.html` into a run's folder, from what the folder holds.

    Raises ValueError if its files are damaged.
    """
    record = Record.read(folder)
    for width, quality in SIZES:
        page = _run_page(record, data.Pictures(width, quality)).encode("utf-8", "backslashreplace")
        if len(page) <= MAX_BYTES:
            break
    write_bytes(folder / "report.html", page)


def save_comparison(folders: Sequence[Path], output: Path) -> None:
    """Write a page that shows the runs in `folders` beside each other."""
    records = [Record.read(folder) for folder in folders]
    write_bytes(output, _comparison(records).encode("utf-8", "backslashreplace"))


def _render(content: Mapping[str, Any], **values: Any) -> str:
    """The page; `content` is what its script is given."""
    import jinja2  # here, since most of the program runs without it
    from markupsafe import Markup

    files = {name: (HERE / name).read_text(encoding="utf-8") for name in FILES}
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined
    )
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return environment.get_template("page.html").render(
        css=Markup(files["page.css"]),
        script=Markup(files["charts.js"] + files["page.js"]),
        # Only "<" could end the block of data; as \u003c it is the same JSON.
        data=Markup(text.replace("<", "\\u003c")),
        **values,
    )


def _run_page(record: Record, pictures: data.Pictures) -> str:
    options, total = record.options, record.options.get("total_itrs")
    last = data.last_step(record)
    finished = isinstance(total, int) and last >= total
    changed = record.facts.get("changed_options", list(options))
    known = {k: value_text(v) for k, v in options.items() if k not in ABOUT_RUN}
    content = {
        "runs": [data.curves(record, name=_name(record), color=RUNS[0])],
        "classes": data.classes(record),
        "validations": data.validations(record, pictures),
        "pictures": list(pictures.uris),
    }
    return _render(
        content,
        title=_name(record),
        state="finished" if finished else f"step {last:,} of {value_text(total)}",
        finished=finished,
        about=_about(record),
        tiles=_tiles(record),
        runs=[],
        run_colors=RUNS,
        single=True,
        options=[(f"--{name}", value) for name, value in known.items() if name in changed],
        more_options=[(f"--{name}", v) for name, v in known.items() if name not in changed],
    )


def _name(record: Record) -> str:
    """The run in words: its network and its data set."""
    model, dataset = record.options.get("model"), record.options.get("dataset")
    if not isinstance(model, str) or not isinstance(dataset, str):
        return record.folder.resolve().name
    root = str(record.options.get("data_root", ""))
    place = f" {Path(root).name}" if dataset == "folder" else ""
    return f"{model} · {dataset}{place}"


def _about(record: Record) -> list[str]:
    """Command, date, machine and versions; no host name and no absolute path."""
    facts, lines = record.facts, []
    if command := record.options.get("command"):
        lines.append(command_text(str(command)))
    versions = facts.get("versions", {})
    parts = [
        str(facts.get("started", ""))[:16].replace("T", " "),
        str(facts.get("device", "")),
        f"commit {facts['commit']}" if facts.get("commit") else "",
        *(f"{name} {number}" for name, number in versions.items()),
    ]
    images = f"{facts.get('num_train')} images to train on, {facts.get('num_val')} to validate"
    if facts:
        lines += [images, " · ".join(filter(None, parts))]
    return lines


def _tiles(record: Record) -> list[dict[str, str]]:
    """The numbers that one looks at first."""
    best, scores = best_validation(record.history), series(record.history, SCORE)[1]
    known = {name: iou for name, iou in data.last_iou(record).items() if iou is not None}
    worst = min(known, key=lambda name: known[name], default=None)
    change = f"{scores[-1] - scores[-2]:+.3f} this time" if len(scores) > 1 else ""
    speeds, waits = (_recent(record, key) for key in ("images/s", "data wait"))
    walls = [line["wall time"] or 0 for line in record.history if "wall time" in line]
    tiles = [
        ("mIoU, best", score_text(best[1] if best else None), f"step {best[0]:,}" if best else ""),
        ("mIoU, last", score_text(scores[-1] if scores else None), change),
        ("pixel accuracy", score_text(_last(record, "Overall Acc")), "last validation"),
        ("worst class", score_text(known[worst]) if worst else "–", worst or ""),
        ("images/s", "–" if math.isnan(speeds) else f"{speeds:.1f}", "recent steps"),
        ("data wait", "–" if math.isnan(waits) else f"{100 * waits:.0f} %", "recent steps"),
        ("wall time", time_text(max(walls, default=math.nan)), "without pauses"),
    ]
    if peak := _last(record, "peak memory"):
        tiles.append(("peak memory", size_text(peak) if peak == peak else "–", ""))
    return [{"name": name, "value": value, "note": note} for name, value, note in tiles]


def _last(record: Record, key: str) -> float:
    values = series(record.history, key)[1]
    return values[-1] if values else math.nan


def _recent(record: Record, key: str) -> float:
    """The median of the last values of a scalar; NaN without any."""
    values = [value for value in series(record.history, key)[1][-20:] if math.isfinite(value)]
    return float(np.median(values)) if values else math.nan


def _comparison(records: Sequence[Record]) -> str:
    names = [record.folder.resolve().name for record in records]
    if len(set(names)) < len(names):  # the same run in several output folders
        parents = [record.folder.resolve().parent.name for record in records]
        names = [f"{parent}/{name}" for parent, name in zip(parents, names, strict=True)]
    ious = [data.last_iou(record) for record in records]
    occurring = list(dict.fromkeys(name for iou in ious for name in iou))
    content = {
        "runs": [
            data.curves(record, name=name, color=RUNS[number % len(RUNS)])
            for number, (record, name) in enumerate(zip(records, names, strict=True))
        ],
        "classes": [],
        "groups": [{"name": name, "values": [iou.get(name) for iou in ious]} for name in occurring],
    }
    return _render(
        content,
        title=f"{len(records)} runs",
        state="",
        finished=False,
        about=[],
        tiles=[],
        runs=[_summary(record, name) for record, name in zip(records, names, strict=True)],
        run_colors=RUNS,
        single=False,
        options=[("", *names), *_differing(records)],
        more_options=[],
    )


def _summary(record: Record, name: str) -> dict[str, str]:
    """A run's row in the table of runs: what its tiles say."""
    tiles = {tile["name"]: tile for tile in _tiles(record)}
    best = tiles["mIoU, best"]
    return {
        "run": name,
        "steps": f"{data.last_step(record):,}",
        "mIoU, best": best["value"],
        "at": best["note"],
        **{key: tiles[key]["value"] for key in ("mIoU, last", "pixel accuracy", "wall time")},
        "images/s": tiles["images/s"]["value"],
    }


def _differing(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """A row for each option that is not the same in all runs."""
    every = dict.fromkeys(name for r in records for name in r.options if name not in ABOUT_RUN)
    rows = [(n, [value_text(r.options.get(n)) for r in records]) for n in every]
    return [(f"--{name}", *values) for name, values in rows if len(set(values)) > 1]
