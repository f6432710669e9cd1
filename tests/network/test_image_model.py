from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from network import load_checkpoint


@pytest.fixture
def model(mobilenet, own_checkpoint, tmp_path):
    torch.save(own_checkpoint(mobilenet), tmp_path / "best.pth")
    return load_checkpoint(tmp_path / "best.pth")


def pixels():
    return np.random.default_rng(0).integers(256, size=(70, 91, 3), dtype=np.uint8)


def test_labels_and_probabilities(model):
    labels, probabilities = model.predict(pixels()), model.probabilities(pixels())
    x = torch.from_numpy(pixels()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))
    with torch.no_grad():
        logits = model((x - mean) / std)[0]
    assert labels.dtype == np.uint8 and labels.shape == (70, 91)
    assert (labels == logits.argmax(0).numpy()).mean() > 0.999
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities, logits.softmax(0), atol=1e-5)


def test_pictures_of_any_mode(model):
    image = Image.fromarray(pixels())
    assert (model.predict(image) == model.predict(pixels())).all()
    for mode in ("L", "P", "RGBA", "1"):
        assert model.predict(image.convert(mode)).shape == (70, 91)


def test_arrays_that_are_views(model):
    turned = pixels()[:, ::-1, ::-1]
    assert (model.predict(turned) == model.predict(turned.copy())).all()
    frozen = pixels()
    frozen.flags.writeable = False
    assert model.predict(frozen).shape == (70, 91)


def test_other_arrays_are_refused(model):
    for array in (pixels()[..., 0], pixels() / 255, pixels()[None]):
        with pytest.raises(ValueError, match=r"give a PIL image, or uint8 \(H,W,3\)"):
            model.predict(array)


def test_evaluates_and_leaves_the_modes_as_they_were(model):
    expected = model.predict(pixels())
    model.train()
    model.backbone.eval()
    modes = [layer.training for layer in model.modules()]
    assert (model.predict(pixels()) == expected).all()
    assert modes == [layer.training for layer in model.modules()]
