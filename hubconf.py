"""Models by `torch.hub.load(REPO, NAME, ...)`: each `deeplabv3_...`, `deeplabv3plus_...`.

    model = torch.hub.load(REPO, "deeplabv3plus_hgnetv2_b4", num_classes=19)
    model = torch.hub.load(REPO, "checkpoint", "best.pth")
    labels = model.predict(image)

REPO is "OWNER/NAME" on GitHub or, with source="local", a folder.
"""

from __future__ import annotations

import network

dependencies = ["torch", "numpy", "PIL", "safetensors"]

checkpoint = network.load_checkpoint
globals().update({name: getattr(network, name) for name in network.list_models()})
