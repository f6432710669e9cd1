from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from network import create_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: on a busy machine, threads that wait for each other cost 10x."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def randomize() -> Callable[..., nn.Module]:
    """Turns a module to float64 with random BatchNorm statistics and affines, biases included."""

    def apply(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)

        def uniform(tensor: Tensor, low: float, high: float) -> None:
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(low + (high - low) * values)

        module = module.double()
        with torch.no_grad():
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    fan_in = layer.weight[0].numel()
                    uniform(layer.weight, -1.7 / fan_in**0.5, 1.9 / fan_in**0.5)
                if isinstance(layer, nn.BatchNorm2d):
                    uniform(layer.weight, 0.5, 1.5)
                    uniform(layer.running_mean, -0.3, 0.3)
                    uniform(layer.running_var, 0.5, 1.5)
                if getattr(layer, "bias", None) is not None:
                    uniform(layer.bias, -0.3, 0.3)
        return module

    return apply


@pytest.fixture
def assert_same() -> Callable[[Tensor, Tensor], None]:
    """Same shape, and no difference above 1e-9 of the largest value."""

    def check(actual: Tensor, expected: Tensor) -> None:
        assert actual.shape == expected.shape
        assert expected.abs().max() > 0
        assert (actual - expected).abs().max() <= 1e-9 * expected.abs().max()

    return check


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Two random images of a size, in float64."""

    def make(height: int, width: int, *, count: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(height * 1000 + width)
        return torch.randn(count, 3, height, width, generator=generator, dtype=torch.float64)

    return make


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    torch.manual_seed(1)
    return create_model(
        "deeplabv3plus_mobilenet", num_classes=19, backbone_args={"legacy_padding": True}
    ).eval()


@pytest.fixture
def predecessor_file(mobilenet: nn.Module, tmp_path: Path) -> Path:
    """As the predecessor saves it, its NumPy number included."""
    path = tmp_path / "best_deeplabv3plus_mobilenet_cityscapes_os16.pth"
    content = {
        "cur_itrs": 30000,
        "model_state": mobilenet.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scheduler_state": {"last_epoch": 3},
        "best_score": np.float64(0.721),
    }
    torch.save(content, path)
    return path


@pytest.fixture
def own_checkpoint() -> Callable[..., dict[str, object]]:
    """A checkpoint in our own format, with some entries changed."""

    def make(model: torch.nn.Module, **changes: object) -> dict[str, object]:
        num_classes = model.build_args["num_classes"]
        return {
            "format": 1,
            "model_name": model.name,
            "build_args": model.build_args,
            "class_names": ["road", "sky", *map(str, range(2, num_classes))],
            "palette": torch.arange(768, dtype=torch.uint8).reshape(256, 3),
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "model_state": model.state_dict(),
            "best_score": 0.5,
            "ema_updates": 7,
            **changes,
        }

    return make


class Hub(ThreadingHTTPServer):
    """Serves files by path: the part `kept` of each, under the hash `etags` states, if any."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.commit = COMMIT
        self.kept = 1.0
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def publish(self, repository: str, content: bytes) -> None:
        self.files[f"/{repository}/resolve/main/model.safetensors"] = content


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        # Once the commit is known, it stands in the place of the branch.
        content = self.server.files.get(self.path.replace(COMMIT, "main"))
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        digest = self.server.etags.get(self.path) or hashlib.sha256(content).hexdigest()
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content[start : int(len(content) * self.server.kept)])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server in the hub's place, with empty caches."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # The server is no hub: nothing to tell it, and its files come by plain HTTP.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    yield server
    server.shutdown()
    server.server_close()
