"""Servers that are out of reach: one line, soon; and "fetching" only where something is fetched."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from network.backbone import BACKBONES
from network.pretrained import weights

HRNET = BACKBONES["hrnetv2_18_small"].variant.weights
RESNET = BACKBONES["resnet18"].variant.weights


@pytest.fixture(params=["nobody listens", "nobody answers"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """A local server that refuses connections, or takes them and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "nobody answers":
            server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Less patience, and an end soon after it has run out."""
    assert weights.PATIENCE <= 5
    monkeypatch.setattr(weights, "PATIENCE", 0.3)
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    begin = time.perf_counter()
    yield
    assert time.perf_counter() - begin < 4


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)


def test_a_hub_out_of_reach(address, hub, monkeypatch, capsys) -> None:
    use(address, monkeypatch)
    with pytest.raises(FileNotFoundError) as error:
        weights.fetch(HRNET, "hrnetv2_18_small")
    line = str(error.value)
    repository = "timm/hrnet_w18_small.gluon_in1k"
    assert line.startswith(
        f"no ImageNet weights for hrnetv2_18_small: {repository} is not in the cache and could "
        "not be fetched ("
    )
    assert "refused" in line or "timed out" in line
    assert f"fetch it by `hf download {repository} model.safetensors --local-dir .`" in line
    assert line.endswith("--pretrained none") and "\n" not in line
    assert capsys.readouterr().out == ""


def test_torchvisions_server_out_of_reach(address, hub, tmp_path: Path) -> None:
    resnet18 = replace(RESNET, source=f"{address}/resnet18-01234567.pth")
    with pytest.raises(FileNotFoundError, match="could not be fetched .*(refused|timed out)"):
        weights.fetch(resnet18, "resnet18")
    assert list((tmp_path / "torch" / "checkpoints").iterdir()) == []
    assert socket.getdefaulttimeout() is None


def test_a_cached_file_needs_no_server(hub, address, monkeypatch, capsys) -> None:
    hub.publish(HRNET.source, b"the weights")
    path = weights.fetch(HRNET, "hrnetv2_18_small")
    said = capsys.readouterr().out
    assert said == "fetching timm/hrnet_w18_small.gluon_in1k/model.safetensors\n"
    use(address, monkeypatch)
    assert weights.fetch(HRNET, "hrnetv2_18_small") == path
    assert path.read_bytes() == b"the weights" and capsys.readouterr().out == ""


def test_more_patience_can_be_asked_for(hub, monkeypatch) -> None:
    asked = []
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "20")
    monkeypatch.setattr(
        huggingface_hub, "get_hf_file_metadata", lambda url, timeout: asked.append(timeout)
    )
    hub.publish(HRNET.source, b"the weights")
    weights.fetch(HRNET, "hrnetv2_18_small")
    assert asked == [20.0]
