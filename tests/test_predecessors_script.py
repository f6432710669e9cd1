"""What users of the predecessor bring along: its parser, its data sets, and a loop like its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import main
import predict
from tests.helpers import Args


def test_get_dataset_gives_what_the_parsed_options_ask_for(voc_args: Args) -> None:
    opts = main.get_argparser().parse_args(voc_args())
    assert (opts.dataset, opts.crop_size, opts.lr) == ("voc", 48, 0.01)
    train, val = main.get_dataset(opts)
    assert (len(train), len(val)) == (6, 3)
    loader = DataLoader(train, batch_size=2, shuffle=True, drop_last=True, num_workers=0)
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [(2, 3, 48, 48)] * 3
    assert all(labels.shape == (2, 48, 48) for _, labels in batches)
    sizes = [tuple(image.shape[2:]) for image, _ in DataLoader(val)]
    assert sizes == [(70, 80), (70, 80), (90, 64)]
    image, label = val[0]
    assert image.dtype == label.dtype == torch.uint8


def test_parsers_are_those_of_the_programs(tmp_path: Path, capsys) -> None:
    path = tmp_path / "options.txt"
    path.write_text("--lr 0.5\n")
    assert main.get_argparser().parse_args([f"@{path}", "--ema", "0.9"]).lr == 0.5
    assert predict.get_argparser().parse_args(["--input", "a", "--ckpt", "b"]).input == ["a"]
    with pytest.raises(SystemExit):
        main.get_argparser().parse_args(["--lrr", "1"])
    assert "did you mean --lr?" in capsys.readouterr().err


# A training in the predecessor's style, by its documentation; only the folder is ours.
SCRIPT = '''
import numpy as np
import torch
from torch import nn
from torch.utils import data

import network
import utils
from datasets import VOCSegmentation
from metrics import StreamSegMetrics
from utils import ext_transforms as et


class Darken:
    """A transform of the user's own, of an image and a label."""

    def __call__(self, img, lbl):
        return img.point(lambda value: value // 2), lbl


mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
train_transform = et.ExtCompose([
    et.ExtRandomScale((0.5, 2.0)),
    et.ExtRandomCrop(size=(65, 65), pad_if_needed=True),
    et.ExtRandomHorizontalFlip(),
    Darken(),
    et.ExtToTensor(),
    et.ExtNormalize(mean=mean, std=std),
])
val_transform = et.ExtCompose([
    et.ExtResize(65),
    et.ExtCenterCrop(65),
    et.ExtToTensor(),
    et.ExtNormalize(mean=mean, std=std),
])
train_dst = VOCSegmentation(root=ROOT, year="2012", image_set="train",
                            download=False, transform=train_transform)
val_dst = VOCSegmentation(root=ROOT, year="2012", image_set="val",
                          download=False, transform=val_transform)
train_loader = data.DataLoader(train_dst, batch_size=2, shuffle=True, num_workers=0, drop_last=True)
val_loader = data.DataLoader(val_dst, batch_size=1, shuffle=True, num_workers=0)

device = torch.device("cpu")
model = network.modeling.__dict__["deeplabv3plus_mobilenet"](num_classes=21, output_stride=16)
network.convert_to_separable_conv(model.classifier)
utils.set_bn_momentum(model.backbone, momentum=0.01)
optimizer = torch.optim.SGD(params=[
    {"params": model.backbone.parameters(), "lr": 0.1 * 0.01},
    {"params": model.classifier.parameters(), "lr": 0.01},
], lr=0.01, momentum=0.9, weight_decay=1e-4)
scheduler = utils.PolyLR(optimizer, 10, power=0.9)
criterion = utils.FocalLoss(ignore_index=255, size_average=True)
model = nn.DataParallel(model)
model.to(device)
losses, cur_itrs = [], 0
for epoch in range(2):
    model.train()
    for images, labels in train_loader:
        cur_itrs += 1
        images = images.to(device, dtype=torch.float32)
        labels = labels.to(device, dtype=torch.long)
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu().numpy())
        scheduler.step()

metrics = StreamSegMetrics(21)
denorm = utils.Denormalize(mean=mean, std=std)
model.eval()
with torch.no_grad():
    for images, labels in val_loader:
        outputs = model(images.to(device, dtype=torch.float32))
        preds = outputs.detach().max(dim=1)[1].cpu().numpy()
        targets = labels.cpu().numpy()
        metrics.update(targets, preds)
        image = (denorm(images[0].numpy()) * 255).transpose(1, 2, 0).astype(np.uint8)
        target = train_dst.decode_target(targets[0]).astype(np.uint8)
score = metrics.get_results()
text = metrics.to_str(score)
confusion = metrics.confusion_matrix
torch.save({
    "cur_itrs": cur_itrs,
    "model_state": model.module.state_dict(),
    "optimizer_state": optimizer.state_dict(),
    "scheduler_state": scheduler.state_dict(),
    "best_score": score["Mean IoU"],
}, OUT)
'''


def test_a_script_in_its_style_runs(tiny_voc: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    found = {"ROOT": str(tiny_voc), "OUT": tmp_path / "latest.pth"}
    exec(compile(SCRIPT, "train.py", "exec"), found)
    assert len(found["losses"]) == 6 and np.isfinite(found["losses"]).all()
    assert set(found["score"]) >= {"Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU", "Class IoU"}
    labeled = sum(int((label != 255).sum()) for _, label in found["val_dst"])
    assert found["confusion"].shape == (21, 21) and found["confusion"].sum() == labeled
    assert found["image"].shape == found["target"].shape == (65, 65, 3)
    assert "Mean IoU" in found["text"]
    before = tmp_path / "before"
    command = ["--input", str(tiny_voc / "VOCdevkit/VOC2012/JPEGImages"), "--output", str(before)]
    more = ["--ckpt", str(found["OUT"]), "--model", "deeplabv3plus_mobilenet", "--device", "cpu"]
    assert predict.main([*command, *more, "--dataset", "voc", "--separable_conv"]) == 0
    assert len(list(before.iterdir())) == 9
