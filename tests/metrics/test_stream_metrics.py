"""StreamSegMetrics against brute force and numbers worked by hand; AverageMeter."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from metrics import AverageMeter, StreamSegMetrics

INTEGER_DTYPES = (
    [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]
    + [np.dtype(">i4"), np.dtype(">u2")]
    + [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.int64]
)


def random_pair(
    num_classes: int, shape: tuple[int, ...], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """int64 labels with 255 in a fifth of the pixels, and predictions right in two of three."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, shape)
    preds = np.where(rng.random(shape) < 2 / 3, labels, rng.integers(0, num_classes, shape))
    labels = np.where(rng.random(shape) < 0.2, 255, labels)
    return labels, preds


def counts_by_hand(labels: np.ndarray, preds: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for label, pred in zip(labels.reshape(-1).tolist(), preds.reshape(-1).tolist(), strict=True):
        if 0 <= label < num_classes:
            counts[label, pred] += 1
    return counts


def metrics_of(counts: list[list[int]], class_names: tuple[str, ...]) -> StreamSegMetrics:
    """Metrics that saw each pair of label and prediction as often as `counts` says."""
    metrics = StreamSegMetrics(len(class_names), class_names=class_names)
    for label, row in enumerate(counts):
        preds = np.repeat(np.arange(len(row)), row)
        metrics.update(np.full_like(preds, label), preds)
    return metrics


def to_type(values: np.ndarray, dtype: np.dtype | torch.dtype) -> np.ndarray | torch.Tensor:
    if isinstance(dtype, torch.dtype):
        return torch.from_numpy(values).to(dtype)
    return values.astype(dtype)


@pytest.mark.parametrize("num_classes", [1, 2, 19, 100, 180, 181, 200, 240])
@pytest.mark.parametrize("shape", [(3, 17, 23), (64,), (1, 1), ()])
def test_counts_equal_brute_force(num_classes: int, shape: tuple[int, ...]) -> None:
    metrics = StreamSegMetrics(num_classes)
    expected = np.zeros((num_classes, num_classes), dtype=np.int64)
    for seed in range(3):
        labels, preds = random_pair(num_classes, shape, seed)
        metrics.update(labels, preds)
        expected += counts_by_hand(labels, preds, num_classes)
    assert metrics.confusion.dtype == np.int64
    np.testing.assert_array_equal(metrics.confusion, expected)


@pytest.mark.parametrize("label_dtype", INTEGER_DTYPES, ids=str)
@pytest.mark.parametrize("pred_dtype", [np.int64, torch.uint8, np.dtype(">i4")], ids=str)
def test_every_integer_dtype_counts_alike(
    label_dtype: np.dtype | torch.dtype, pred_dtype: np.dtype | torch.dtype
) -> None:
    labels, preds = random_pair(19, (2, 9, 11))
    if "int8" in str(label_dtype) and "uint8" not in str(label_dtype):
        labels[labels == 255] = -1  # 255 does not fit
    metrics = StreamSegMetrics(19)
    metrics.update(to_type(labels, label_dtype), to_type(preds, pred_dtype))
    np.testing.assert_array_equal(metrics.confusion, counts_by_hand(labels, preds, 19))


@pytest.mark.parametrize("label", [19, 20, 254, 255, 256, -1, -100, 65536 + 3, 2**32 + 3, 2**62])
def test_any_label_outside_the_classes_is_ignored(label: int) -> None:
    """65536 + 3 and 2**32 + 3 are class 3 to a narrower integer type."""
    metrics = StreamSegMetrics(19)
    metrics.update(np.array([3, label, 4]), np.array([3, 3, 5]))
    assert metrics.confusion.sum() == 2
    assert metrics.confusion[3, 3] == 1 and metrics.confusion[4, 5] == 1


@pytest.mark.parametrize("pred", [19, 255, -1, 65536 + 3])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_prediction_outside_the_classes(pred: int, as_tensor: bool) -> None:
    metrics = StreamSegMetrics(19)
    preds, labeled, ignored = np.array([1, pred]), np.array([1, 2]), np.array([1, 255])
    if as_tensor:
        preds, labeled, ignored = map(torch.from_numpy, (preds, labeled, ignored))
    with pytest.raises(ValueError, match=f"predicted {pred} at labeled pixels.*0..18"):
        metrics.update(labeled, preds)
    assert metrics.confusion.sum() == 0
    metrics.update(ignored, preds)
    assert metrics.confusion.sum() == metrics.confusion[1, 1] == 1


def test_other_bad_input() -> None:
    metrics = StreamSegMetrics(3)
    integers = np.zeros((2, 4), dtype=np.int64)
    with pytest.raises(ValueError, match=r"\(2, 4\) and predictions \(4, 2\)"):
        metrics.update(integers, integers.T)
    with pytest.raises(ValueError, match="float32; give integer"):
        metrics.update(integers, integers.astype(np.float32))
    with pytest.raises(ValueError, match="predictions are of type <U1; give integer"):
        metrics.update(integers, np.full((2, 4), "1"))
    with pytest.raises(ValueError, match="torch.float64; give integer"):
        metrics.update(torch.zeros(2, 4, dtype=torch.float64), integers)
    with pytest.raises(ValueError, match="n_classes is 0"):
        StreamSegMetrics(0)
    with pytest.raises(ValueError, match="3 class names .2 distinct. for 3"):
        StreamSegMetrics(3, class_names=("road", "sky", "road"))
    with pytest.raises(ValueError, match="2 class names"):
        StreamSegMetrics(3, class_names=("road", "sky"))
    with pytest.raises(ValueError, match="3 class names .2 distinct. for 2"):
        StreamSegMetrics(2, class_names=("road", "sky", "road"))


def test_layout_changes_nothing_and_inputs_stay_as_they_were() -> None:
    labels, preds = random_pair(19, (2, 8, 12))
    expected = counts_by_hand(labels, preds, 19)
    transposed = StreamSegMetrics(19)
    transposed.update(labels.transpose(2, 0, 1), torch.from_numpy(preds).permute(2, 0, 1))
    flipped = StreamSegMetrics(19)
    flipped.update(labels[..., ::-1], np.ascontiguousarray(preds[..., ::-1]))
    read_only = labels.astype(np.int16)
    read_only.flags.writeable = False
    kept = [torch.from_numpy(labels.astype(np.int16)), torch.from_numpy(preds.astype(np.int16))]
    before = [values.clone() for values in kept]
    same_type = StreamSegMetrics(19)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_type.update(read_only, kept[1])
        same_type.reset()
        same_type.update(*kept)
    assert all(torch.equal(*pair) for pair in zip(kept, before, strict=True))
    for metrics in (transposed, flipped, same_type):
        np.testing.assert_array_equal(metrics.confusion, expected)


def test_empty_batch_counts_nothing() -> None:
    metrics = StreamSegMetrics(3)
    metrics.update(np.zeros((0, 4), dtype=np.int64), np.zeros((0, 4), dtype=np.int64))
    assert metrics.confusion.sum() == 0


def test_scores_worked_by_hand() -> None:
    """sky is in neither, sign only in the predictions."""
    counts = [[6, 2, 0, 0], [1, 3, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    metrics = metrics_of(counts, ("road", "car", "sign", "sky"))
    results = metrics.get_results()
    assert list(results)[:4] == ["Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU"]
    assert results["Overall Acc"] == pytest.approx(9 / 16)
    assert results["Mean Acc"] == pytest.approx((6 / 8 + 3 / 8) / 2)
    assert results["FreqW Acc"] == pytest.approx((6 / 9 + 3 / 10) / 2)
    assert results["Mean IoU"] == pytest.approx((6 / 9 + 3 / 10 + 0) / 3)
    assert results["Mean IoU (classes in ground truth)"] == pytest.approx((6 / 9 + 3 / 10) / 2)
    assert results["Mean Dice"] == pytest.approx((12 / 15 + 6 / 13 + 0) / 3)
    nan = math.nan
    expected = {
        "Class IoU by name": (6 / 9, 3 / 10, 0, nan),
        "Class Dice": (12 / 15, 6 / 13, 0, nan),
        "Class Precision": (6 / 7, 3 / 5, 0, nan),
        "Class Recall": (6 / 8, 3 / 8, nan, nan),
        "Class Pixels": (8, 8, 0, 0),
    }
    for key, values in expected.items():
        assert tuple(results[key]) == ("road", "car", "sign", "sky")
        assert tuple(results[key].values()) == pytest.approx(values, nan_ok=True), key
    assert metrics.class_rows(results)[0] == {
        "class": "road",
        "IoU": pytest.approx(6 / 9),
        "Dice": pytest.approx(12 / 15),
        "precision": pytest.approx(6 / 7),
        "recall": pytest.approx(6 / 8),
        "pixels": 8,
    }
    assert tuple(results["Class IoU"].items())[:3] == (
        (0, pytest.approx(6 / 9)),
        (1, pytest.approx(0.3)),
        (2, 0.0),
    )


def test_unlabeled_split_gives_nan_without_a_warning() -> None:
    metrics = StreamSegMetrics(3)
    metrics.update(np.full((4, 5), 255), np.ones((4, 5), dtype=np.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = metrics.get_results()
    overall = [value for value in results.values() if not isinstance(value, dict)]
    assert len(overall) == 6 and all(math.isnan(value) for value in overall)
    assert results["Class Pixels"] == {"0": 0, "1": 0, "2": 0}
    assert all(math.isnan(value) for value in results["Class IoU"].values())
    assert "Mean IoU: nan\n" in metrics.to_str(results)


def test_text() -> None:
    metrics = metrics_of([[1500, 500, 0], [0, 0, 0], [0, 0, 0]], ("road", "traffic light", "sky"))
    results = metrics.get_results()
    lines = StreamSegMetrics.to_str(results).splitlines()
    assert lines[:3] == ["", "Overall Acc: 0.750000", "Mean Acc: 0.750000"]
    assert len(lines) == 7


def test_reset_and_counts_beyond_float32() -> None:
    metrics = StreamSegMetrics(2)
    metrics.counts[0, 0] = 2**53
    metrics.update(np.array([0, 1]), np.array([0, 0]))
    np.testing.assert_array_equal(metrics.confusion, [[2**53 + 1, 0], [1, 0]])
    metrics.reset()
    assert metrics.confusion.sum() == 0


def test_confusion_is_a_copy() -> None:
    metrics = StreamSegMetrics(2)
    metrics.confusion[0, 0] = 5
    assert metrics.confusion.sum() == 0


def _add_up(rank: int, init_file: str, result_folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{init_file}", rank=rank, world_size=2
    )
    metrics = StreamSegMetrics(2)
    metrics.update(np.array([0, 1, 1]), np.array([0, rank, rank]))
    metrics.all_reduce()
    np.save(Path(result_folder) / f"{rank}.npy", metrics.confusion)
    torch.distributed.destroy_process_group()


def test_all_reduce_over_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_add_up, (str(tmp_path / "init"), str(tmp_path)), nprocs=2)
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{rank}.npy"), [[2, 0], [2, 2]])


def test_counts_made_in_inference_mode_can_be_changed_outside() -> None:
    metrics = StreamSegMetrics(2)
    with torch.inference_mode():
        metrics.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    metrics.all_reduce()  # nothing to do in a single process
    metrics.counts.mul_(2)  # what an all_reduce over two equal processes does, in place
    np.testing.assert_array_equal(metrics.confusion, [[2, 0], [2, 0]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("num_classes", [19, 200])
def test_counts_on_the_gpu(num_classes: int) -> None:
    labels, preds = random_pair(num_classes, (2, 64, 96))
    metrics = StreamSegMetrics(num_classes)
    metrics.update(labels, torch.from_numpy(preds).cuda())
    assert metrics.counts.is_cuda
    np.testing.assert_array_equal(metrics.confusion, counts_by_hand(labels, preds, num_classes))


def test_average_meter() -> None:
    meter = AverageMeter()
    for value in (1.0, 2.0, 6.0):
        meter.update("loss", value)
    meter.update("tensor", torch.tensor(4.0))
    assert meter.get_results("loss") == 3.0
    assert meter.get_results("tensor").item() == 4.0
    meter.reset("loss")
    meter.reset("never seen")
    with pytest.raises(ValueError, match="no values for 'loss'; names with values: tensor"):
        meter.get_results("loss")
    meter.update("loss", 5.0)
    assert meter.get_results("loss") == 5.0
    meter.reset("loss")
    meter.reset("tensor")
    with pytest.raises(ValueError, match="names with values: none"):
        meter.get_results("tensor")


def test_the_predecessors_name_and_labels_of_no_class() -> None:
    metrics = StreamSegMetrics(2)
    metrics.update(np.array([[0, 1, 2, 77, 255, -1]]), np.array([[0, 1, 1, 0, 1, 0]]))
    assert metrics.confusion_matrix.tolist() == [[1, 0], [0, 1]]
    metrics.confusion_matrix[0, 0] = 9  # a copy
    assert metrics.confusion_matrix.sum() == 2
    assert "outside 0..n_classes-1 are ignored" in (StreamSegMetrics.__doc__ or "")
