"""The predecessor's `Visualizer`: curves, images and tables of any program on a Visdom server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import windows
from .dashboard import clean_env, thinned
from .sender import DEFAULT_PORT, Message, Sender
from .server import INSTALL


def _message(method: str, values: tuple[np.ndarray, ...], opts: Mapping[str, Any]) -> Message:
    """What Visdom's own client would send when this method of it is called."""
    try:
        from visdom import Visdom
    except ImportError as error:
        raise ImportError(f"{error}; {INSTALL}") from error
    client = Visdom(send=False, use_incoming_socket=False)  # it only makes the messages
    return getattr(client, method)(*values, win="", opts=dict(opts))[0]


class Visualizer:
    """Shows curves, images and tables in windows of their names.

    Args:
        port: the server's port.
        env: Visdom's environment; "/" becomes "_".
        id: every window's name begins with "[id]".
    """

    def __init__(
        self, port: str | int = DEFAULT_PORT, env: str = "main", id: str | None = None
    ) -> None:
        self.env, self.id = clean_env(env), id
        self._curves: dict[str, windows.Points] = {}
        self._sender = Sender(int(port), self.env)

    def _name(self, name: str) -> str:
        return name if self.id is None else f"[{self.id}]{name}"

    def vis_scalar(
        self, name: str, x: ArrayLike, y: ArrayLike, opts: Mapping[str, Any] | None = None
    ) -> None:
        """Add one point, or a list of points, to the curve `name`."""
        name = self._name(name)
        curve = self._curves.setdefault(name, [])
        for step, value in zip(np.atleast_1d(x).tolist(), np.atleast_1d(y).tolist(), strict=True):
            curve.append((step, value if math.isfinite(value) else math.nan))
        steps, values = np.array(thinned(curve), dtype=float).T
        looks = {"title": name, "legend": [name], "showlegend": False, **(opts or {})}
        self._sender.put((self.env, name), partial(_message, "line", (values, steps), looks))

    def vis_image(
        self,
        name: str,
        img: np.ndarray,
        env: str | None = None,
        opts: Mapping[str, Any] | None = None,
    ) -> None:
        """Show an image, (3, H, W) or (H, W), as uint8 or as floats in 0..1."""
        window, looks = (clean_env(env or self.env), self._name(name)), opts or {}
        job = partial(_message, "image", (np.array(img),), {"title": window[1], **looks})
        self._sender.put(window, job)

    def vis_table(
        self, name: str, tbl: Mapping[Any, Any], opts: Mapping[str, Any] | None = None
    ) -> None:
        """Show named values as a table."""
        rows, title = {str(key): value for key, value in tbl.items()}, self._name(name)

        def table() -> Message:
            window = windows.page(title, {"rows": rows}, template="table.html")
            window["opts"] |= {
                "width": 360,
                "height": min(700, 40 + 22 * len(rows)),
                **(opts or {}),
            }
            return window

        self._sender.put((self.env, title), table)

    def close(self, limit: float = 3.0) -> None:
        """Send what is not sent yet, for at most `limit` seconds."""
        self._sender.close(limit)
