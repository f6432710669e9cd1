"""Pictures whose labels can be read off them, for tests of the transforms."""

from __future__ import annotations

import numpy as np


def painted(height: int, width: int, cell: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Label of random classes below 100, and the image that shows it as (2 x label + 50) gray."""
    rng = np.random.default_rng(height * 1000 + width)
    small = rng.integers(0, 100, (-(-height // cell), -(-width // cell)))
    label = small.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width].astype(np.uint8)
    image = np.repeat((label * 2 + 50)[..., None], 3, axis=2).astype(np.uint8)
    image.flags.writeable = label.flags.writeable = False  # as memory maps are
    return image, label


def colored(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height + width)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, 100, (height, width), dtype=np.uint8)
