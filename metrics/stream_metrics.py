"""Segmentation scores from one exact confusion matrix, and a running average.

Pixels are counted in int64 (row: ground truth, column: prediction), so the order, the batch size
and the number of processes change nothing. Every score is computed from these counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# torch has few operations for these types, so each becomes a wider one. uint64 values from 2**63 on
# become negative, and so stay outside every class range.
_WIDER_DTYPE = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}


def _as_integer_tensor(values: np.ndarray | Tensor, what: str) -> Tensor:
    """`values` as an integer tensor that torch can count; it shares memory where possible."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "iub":
            raise ValueError(f"{what} are of type {array.dtype}; give integer class ids")
        # torch needs native byte order and positive strides, and warns about read-only memory.
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        values = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if values.is_floating_point() or values.is_complex():
        raise ValueError(f"{what} are of type {values.dtype}; give integer class ids")
    return values.to(_WIDER_DTYPE.get(values.dtype, values.dtype))


def _mask_invalid(labels: Tensor, preds: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Give labels outside 0..C-1 the ignored row C; elsewhere, refuse such predictions."""
    labels, preds = labels.long(), preds.long()
    ignored = (labels < 0) | (labels >= num_classes)
    wrong = preds[~ignored & ((preds < 0) | (preds >= num_classes))]
    if wrong.numel():
        values = ", ".join(str(value) for value in wrong.unique()[:5].tolist())
        raise ValueError(
            f"predicted {values} at labeled pixels; predictions must be 0..{num_classes - 1}: "
            "check the model's number of classes"
        )
    return labels.masked_fill(ignored, num_classes), preds.masked_fill(ignored, 0)


def _count(labels: Tensor, preds: Tensor, num_classes: int) -> Tensor:
    """Count (ground truth, prediction) pairs: int64 (C, C).

    This is one bincount of `label * C + prediction`. Ignored pixels are counted in a spare row,
    which is cheaper than masking them out. The narrowest index type for all cells is the fastest.
    """
    num_cells = num_classes * num_classes + num_classes
    if labels.numel() == 0:
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=labels.device)
    dtypes = (torch.int16, torch.int32, torch.int64)
    index_dtype = next(dtype for dtype in dtypes if num_cells - 1 <= torch.iinfo(dtype).max)
    # One transfer for all four numbers: on a GPU, each transfer waits for the device.
    bounds = [bound.long() for values in (labels, preds) for bound in torch.aminmax(values)]
    label_min, label_max, pred_min, pred_max = torch.stack(bounds).tolist()
    preds_in_range = 0 <= pred_min and pred_max < num_classes
    if label_min < 0 or label_max > torch.iinfo(index_dtype).max or not preds_in_range:
        labels, preds = _mask_invalid(labels, preds, num_classes)
    index = labels.to(index_dtype, copy=True).clamp_(max=num_classes)
    index = index.mul_(num_classes).add_(preds.to(index_dtype)).reshape(-1)
    # Neighboring pixels mostly fall into the same cell, where each count has to wait for the one
    # before it. So neighboring columns are counted in different tables.
    num_tables = max(1, min(8, (torch.iinfo(torch.int16).max + 1) // num_cells))
    columns = torch.arange(labels.shape[-1] if labels.ndim else 1, device=labels.device)
    index.view(-1, len(columns)).add_((columns % num_tables * num_cells).to(index_dtype))
    counts = torch.bincount(index, minlength=num_tables * num_cells)
    counts = counts.view(num_tables, num_cells).sum(dim=0)
    return counts[: num_classes * num_classes].reshape(num_classes, num_classes)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient in float64; NaN where the denominator is 0."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)


def _mean_of_defined(values: np.ndarray) -> float:
    """The mean without NaN entries; NaN if nothing is left."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


class StreamSegMetrics:
    """The scores of a segmentation, from exact counts.

    Labels outside 0..n_classes-1 are ignored without a word: 255 and negative ones, but also the
    classes that a model with too few outputs does not have. `class_names` must be distinct; they
    default to "0", "1", ... `counts` are int64 (C, C) on the device of the predictions.
    """

    def __init__(self, n_classes: int, *, class_names: Sequence[str] | None = None) -> None:
        if n_classes < 1:
            raise ValueError(f"n_classes is {n_classes}; it must be at least 1")
        names = tuple(str(i) for i in range(n_classes)) if class_names is None else class_names
        if len(names) != n_classes or len(set(names)) != n_classes:
            raise ValueError(
                f"{len(names)} class names ({len(set(names))} distinct) for {n_classes} classes; "
                "give one distinct name per class"
            )
        self.n_classes = n_classes
        self.class_names = tuple(names)
        self.reset()

    def reset(self) -> None:
        """Forget every count."""
        self.counts = torch.zeros(self.n_classes, self.n_classes, dtype=torch.int64)

    @property
    def confusion(self) -> np.ndarray:
        """A copy of the counts: int64 (C, C), rows ground truth, columns prediction."""
        return self.counts.to("cpu", copy=True).numpy()

    @property
    def confusion_matrix(self) -> np.ndarray:
        """`confusion` under the predecessor's name."""
        return self.confusion

    # Tensors made in inference mode cannot be changed in place outside of it, as all_reduce does.
    @torch.inference_mode(False)
    def update(self, labels: np.ndarray | Tensor, preds: np.ndarray | Tensor) -> Tensor:
        """Count one batch: integer arrays or tensors of the same shape, on any device.

        Returns the counts of this batch alone, int64 (C, C) on the device of the predictions.
        Raises ValueError, and counts nothing, if the shapes differ, a type is not integer, or a
        prediction at a labeled pixel is outside 0..n_classes-1.
        """
        labels = _as_integer_tensor(labels, "labels")
        preds = _as_integer_tensor(preds, "predictions")
        if labels.shape != preds.shape:
            raise ValueError(
                f"labels are {tuple(labels.shape)} and predictions {tuple(preds.shape)}; "
                "they must have the same shape"
            )
        counts = _count(labels.to(preds.device), preds, self.n_classes)
        self.counts = self.counts.to(counts.device) + counts
        return counts

    def all_reduce(self) -> None:
        """Sum the counts over all processes; call it once in each, before get_results.

        Without torch.distributed it does nothing.
        """
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        # A process that had no batch has its counts on the CPU, but all must use the same device.
        device = "cuda" if "nccl" in distributed.get_backend() else "cpu"
        self.counts = self.counts.to(device)
        distributed.all_reduce(self.counts)

    def get_results(self) -> dict[str, Any]:
        """All scores as plain numbers; NaN where a score is undefined.

        "Mean IoU" and "Mean Dice" average over the classes that occur in the ground truth or in
        the predictions, "Mean Acc" and "Mean IoU (classes in ground truth)" over those in the
        ground truth. The keys of "Class IoU" are class indices, those of the other "Class ..."
        entries class names.
        """
        counts = self.confusion
        hits, truth, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        iou = _ratio(hits, truth + predicted - hits)
        dice = _ratio(2 * hits, truth + predicted)
        recall = _ratio(hits, truth)
        present = truth > 0

        def by_name(values: np.ndarray) -> dict[str, Any]:
            return dict(zip(self.class_names, values.tolist(), strict=True))

        return {
            "Overall Acc": float(_ratio(hits.sum(), truth.sum())),
            "Mean Acc": _mean_of_defined(recall),
            "FreqW Acc": float(_ratio((truth * iou)[present].sum(), truth.sum())),
            "Mean IoU": _mean_of_defined(iou),
            "Mean IoU (classes in ground truth)": _mean_of_defined(iou[present]),
            "Mean Dice": _mean_of_defined(dice),
            "Class IoU": dict(enumerate(iou.tolist())),
            "Class IoU by name": by_name(iou),
            "Class Dice": by_name(dice),
            "Class Precision": by_name(_ratio(hits, predicted)),
            "Class Recall": by_name(recall),
            "Class Pixels": by_name(truth),
        }

    @staticmethod
    def to_str(results: Mapping[str, Any]) -> str:
        """An empty line, as in the predecessor, then "name: value" lines of the overall scores."""
        overall = {key: value for key, value in results.items() if not isinstance(value, Mapping)}
        return "\n" + "".join(f"{key}: {value:f}\n" for key, value in overall.items())

    @staticmethod
    def class_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The per-class scores as rows of a table, one dict per class."""
        columns = {
            "IoU": "Class IoU by name",
            "Dice": "Class Dice",
            "precision": "Class Precision",
            "recall": "Class Recall",
            "pixels": "Class Pixels",
        }
        return [
            {"class": name} | {column: results[key][name] for column, key in columns.items()}
            for name in results["Class Pixels"]
        ]


class AverageMeter:
    """Running averages of named numbers: floats, or tensors, which stay on their device."""

    def __init__(self) -> None:
        self._totals: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def update(self, id: str, val: float | Tensor) -> None:
        """Add one value to the average called `id`."""
        self._totals[id] = self._totals.get(id, 0) + val
        self._counts[id] = self._counts.get(id, 0) + 1

    def get_results(self, id: str) -> float | Tensor:
        """The average of the values since the last reset; ValueError if there are none."""
        if not self._counts.get(id):
            known = ", ".join(name for name, count in self._counts.items() if count) or "none"
            raise ValueError(f"no values for {id!r}; names with values: {known}")
        return self._totals[id] / self._counts[id]

    def reset(self, id: str) -> None:
        """Forget the values of `id`, if it has any."""
        self._totals.pop(id, None)
        self._counts.pop(id, None)
