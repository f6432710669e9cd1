"""StreamSegMetrics against torchmetrics and the Cityscapes evaluation script."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metrics import StreamSegMetrics


def random_pair(
    num_classes: int, shape: tuple[int, ...], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """int64 labels with 255 in a fifth of the pixels, and predictions right in two of three."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, shape)
    preds = np.where(rng.random(shape) < 2 / 3, labels, rng.integers(0, num_classes, shape))
    labels = np.where(rng.random(shape) < 0.2, 255, labels)
    return labels, preds


@pytest.mark.parametrize("num_classes", [2, 19, 200])
def test_equal_to_torchmetrics(num_classes: int) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    settings = {"num_classes": num_classes, "ignore_index": 255, "validate_args": False}
    confusion = classification.MulticlassConfusionMatrix(**settings)
    metrics = StreamSegMetrics(num_classes)
    per_class = {
        "Class IoU by name": classification.MulticlassJaccardIndex(average="none", **settings),
        "Class Dice": classification.MulticlassF1Score(average="none", **settings),
        "Class Precision": classification.MulticlassPrecision(average="none", **settings),
        "Class Recall": classification.MulticlassRecall(average="none", **settings),
    }
    accuracy = classification.MulticlassAccuracy(average="micro", **settings)
    mean_iou = classification.MulticlassJaccardIndex(average="macro", **settings)
    for seed in range(3):
        labels, preds = map(torch.from_numpy, random_pair(num_classes, (2, 120, 160), seed))
        metrics.update(labels, preds)
        for other in (confusion, accuracy, mean_iou, *per_class.values()):
            other.update(preds, labels)
    np.testing.assert_array_equal(metrics.confusion, confusion.compute().numpy())
    results = metrics.get_results()
    assert results["Overall Acc"] == pytest.approx(accuracy.compute().item(), abs=1e-6)
    assert results["Mean IoU"] == pytest.approx(mean_iou.compute().item(), abs=1e-6)
    for key, other in per_class.items():
        np.testing.assert_allclose(list(results[key].values()), other.compute(), atol=1e-6)


def test_equal_to_the_cityscapes_evaluation_of_written_files(tmp_path: Path) -> None:
    script = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    table = script.id2label
    classes = {label.trainId: label for label in table.values() if not label.ignoreInEval}
    assert sorted(classes) == list(range(19))
    train_ids = np.full(256, 255, dtype=np.uint8)
    for train_id, label in classes.items():
        train_ids[label.id] = train_id
    ids = np.array([classes[i].id for i in range(19)], dtype=np.uint8)
    rng = np.random.default_rng(0)
    metrics = StreamSegMetrics(19, class_names=[classes[i].name for i in range(19)])
    files: dict[str, list[str]] = {"pred": [], "truth": []}
    for index in range(3):
        # Every id, the ignored ones too, but no train (16) anywhere and no bus (15) in the truth.
        truth = rng.choice(np.setdiff1d(np.arange(34), [ids[16], ids[15]]), (40, 60))
        wrong = rng.choice(np.delete(np.arange(19), 16), truth.shape)
        target = train_ids[truth]
        preds = np.where((rng.random(truth.shape) < 0.3) | (target == 255), wrong, target)
        for kind, image in (("truth", truth.astype(np.uint8)), ("pred", ids[preds])):
            path = tmp_path / f"a_{index:06}_000019_{kind}_labelIds.png"
            Image.fromarray(image).save(path)
            files[kind].append(str(path))
        metrics.update(target, preds)
    script.args.evalInstLevelScore = False
    script.args.JSONOutput, script.args.quiet = False, True
    theirs = script.evaluateImgLists(files["pred"], files["truth"], script.args)
    ours = metrics.get_results()
    for name, iou in ours["Class IoU by name"].items():
        assert iou == pytest.approx(theirs["classScores"][name], abs=1e-12, nan_ok=True), name
    assert ours["Mean IoU"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-12)
    assert ours["Class IoU by name"]["bus"] == 0.0  # predicted, never there
    assert math.isnan(ours["Class IoU by name"]["train"])
    assert ours["Mean IoU (classes in ground truth)"] == pytest.approx(
        theirs["averageScoreClasses"] * 18 / 17, abs=1e-12
    )
