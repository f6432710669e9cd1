"""Training steps on random batches and from files, beside other libraries and the roofline."""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks import common, contenders, data, train_step
from benchmarks.contenders import Work
from benchmarks.gpu.sheet import Deadline, Sheet

BACKBONES = ("resnet50", "hrnetv2_48", "hgnetv2_b4", "vovnetv2_39b", "res2net50_26w_4s")
HEADER = (
    "network|who|crop, batch|images/s|ms|conv TFLOP/s|of the roofline|of that of convolutions"
    "|peak MiB|data wait"
)
ABOUT = """
Eager bf16 unless said otherwise. The roofline is the least time for all eager operations one by
one, each limited by its FLOPs or its bytes; that of convolutions leaves out all else, as if it were
fused. smp is segmentation_models_pytorch, whose head is smaller; it and torchvision's network begin
with the batch on the device. From files: 1024x2048, as many loader processes as main.py starts."""


def jobs(args: argparse.Namespace) -> list[tuple[str, Work]]:
    """Who steps on what: first what matters most, and last what has to be compiled."""
    if args.quick:
        return [("ours bf16", Work("mobilenet", 64, 2, args.device))]
    eager, peers, compiled = [], [], []
    for batch, backbone in itertools.product((16, 8), BACKBONES):
        work = Work(backbone, 768, batch, args.device)
        eager.append(("ours bf16", work))
        compiled.append(("ours bf16 compiled", work))
        if backbone in contenders.SMP_ENCODERS and find_spec("segmentation_models_pytorch"):
            peers += [(f"smp bf16{layout}", work) for layout in ("", " channels_last")]
        if backbone == "resnet50" and find_spec("torchvision"):
            peers.append(("torchvision bf16 channels_last", work))
    return [*eager, *peers, *compiled]


def measure(sheet: Sheet, args: argparse.Namespace) -> bool:
    """The table; returns whether every row was measured that was reached."""
    deadline, complete = Deadline(args.minutes), True
    ask = here if args.quick else there
    limits = ask("ceilings", Work("mobilenet", 64, 2, args.device), [], deadline)
    sheet.say(
        f"\nbf16 ceilings: matmul {limits['matmul'] / 1e12:.2f} and convolution "
        f"{limits['conv'] / 1e12:.2f} TFLOP/s, copy {limits['bytes_per_s'] / 1e9:.0f} GB/s"
    )
    sheet.say(ABOUT)
    sheet.table(HEADER)
    ceilings = [max(limits["matmul"], limits["conv"]), limits["bytes_per_s"]]
    eager: dict[Work, Mapping[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        disk = from_disk(Path(folder), args)
        ours = jobs(args)
        # The files' rows after the first networks, so that they are reached.
        for who, work in [*ours[: len(BACKBONES)], *disk, *ours[len(BACKBONES) :]]:
            result: dict[str, float] | None = None
            problem = f"not reached in {args.minutes:g} minutes"
            if deadline.left() > 20:
                try:
                    result = ask(who, work, ceilings, deadline)
                except (RuntimeError, ValueError, OSError, SystemExit) as error:
                    problem, complete = f"failed: {str(error)[:200]}", False
            if result is None:
                sheet.row([work.backbone, who, f"{work.size}, {work.batch}", problem, *[""] * 6])
                continue
            if who == "ours bf16":
                eager[work] = result
            counted = eager.get(work, {}) if "compiled" in who else result
            sheet.row(cells(who, work, result, counted))
    return complete


def cells(
    who: str, work: Work, result: Mapping[str, float], counted: Mapping[str, float]
) -> list[str]:
    """A row; the FLOPs and bytes of a compiled step are those of the eager one."""
    seconds, unknown = result["seconds"], math.nan
    shares = [100 * counted.get(name, unknown) / seconds for name in ("all", "conv")]
    return [
        work.backbone,
        who,
        f"{work.size}, {work.batch}",
        f"{work.batch / seconds:.1f}",
        f"{1000 * seconds:.1f}",
        f"{counted.get('flops', unknown) / seconds / 1e12:.1f}",
        *(f"{share:.0f} %" for share in shares),
        f"{result['mib']:.0f}",
        f"{100 * result['data wait']:.1f} %" if "from-disk" in who else "",
    ]


def from_disk(folder: Path, args: argparse.Namespace) -> list[tuple[str, Work]]:
    """The quickest network fed from PNG and JPEG files, decoded each time or kept by --cache."""
    count, size = (2, (128, 256)) if args.quick else (24, (1024, 2048))
    makers: dict[str, Callable[..., Path]] = {
        "cityscapes": data.make_cityscapes,
        "voc": data.make_voc,
    }
    found = []
    for dataset, make in makers.items():
        root = make(folder / dataset, count, size=size)
        for more in [""] if args.quick else ["", " cached"]:
            kind = "PNG" if dataset == "cityscapes" else "JPEG"
            name, side, batch = ("mobilenet", 64, 2) if args.quick else ("resnet50", 768, 16)
            work = Work(name, side, batch, args.device, data=str(root), dataset=dataset)
            found.append((f"ours bf16 from-disk {kind}{more}", work))
    return found


def here(who: str, work: Work, ceilings: Sequence[float], deadline: Deadline) -> dict[str, float]:
    """Measure in this process: quick to start."""
    if who == "ceilings":
        return common.ceilings(work.device, quick=True)
    return contenders.prepared(who, work, steps=1, ceilings=ceilings)()


def there(who: str, work: Work, ceilings: Sequence[float], deadline: Deadline) -> dict[str, float]:
    """Measure in a process of its own, which leaves no memory and no settings behind."""
    extra = ["--steps", "100" if "from-disk" in who else "20"]
    extra += ["--ceilings", *map(str, ceilings)] if ceilings else []
    worker = train_step.start(who, work, extra, seconds=deadline.left())
    try:
        return worker.run()
    finally:
        worker.close()
