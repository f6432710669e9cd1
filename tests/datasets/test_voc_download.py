"""Fetching VOC from a server of our own: what comes whole is unpacked, all else leaves nothing."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torchvision.datasets.voc import DATASET_YEAR_DICT

from datasets import DataError, VOCSegmentation, create_dataset
from datasets.voc import download_extract

MakeVoc = Callable[..., Path]
NAME = "voc.tar"


class Server(ThreadingHTTPServer):
    """Answers every request with `content`, of which `cut` bytes do not come."""

    content, cut, status, requests = b"", 0, 200, 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: len(self.server.content) - self.server.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def offer(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the server the place of a year's archive, with the checksum of what it gives."""

    def set_up(content: bytes, key: str = "2012") -> None:
        server.content = content
        url = f"http://127.0.0.1:{server.server_port}/{NAME}"
        md5 = hashlib.md5(content).hexdigest()
        monkeypatch.setitem(
            DATASET_YEAR_DICT, key, {**DATASET_YEAR_DICT[key], "url": url, "md5": md5}
        )

    return set_up


def tar_of(folder: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(folder, arcname=".")
    return stream.getvalue()


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


def test_fetched_once(
    make_voc: MakeVoc, server: Server, offer: Callable[..., None], tmp_path: Path
) -> None:
    offer(tar_of(make_voc()))
    root = tmp_path / "new" / "root"
    source = {"root": root, "options": {"download": True}}
    assert len(create_dataset("voc", "train", **source)) == 3
    asked = server.requests
    assert len(create_dataset("voc", "val", **source)) == 2 and server.requests == asked
    assert left_in(root) == ["VOCdevkit", NAME]
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").unlink()
    assert len(create_dataset("voc", "train", **source)) == 3  # the archive is still there
    assert server.requests == asked


def test_what_is_there_is_added_to(
    make_voc: MakeVoc, offer: Callable[..., None], tmp_path: Path
) -> None:
    offer(tar_of(make_voc("VOCdevkit/VOC2007")), "2007-test")
    kept = tmp_path / "root/VOCdevkit/VOC2007/JPEGImages/mine.jpg"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    assert len(VOCSegmentation(tmp_path / "root", "2007", "test", download=True)) == 1
    assert kept.read_text() == "mine"


def test_augmented_year_names_what_is_left_to_do(
    make_voc: MakeVoc, offer: Callable[..., None], tmp_path: Path
) -> None:
    offer(tar_of(make_voc()))
    with pytest.raises(FileNotFoundError, match=f"datasets.voc_aug --data_root {tmp_path}/root "):
        VOCSegmentation(tmp_path / "root", "2012_aug", download=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cut": 100}, "bytes that arrived do not have the MD5"),
        ({"content": b"something else"}, "the 14 bytes that arrived do not have the MD5"),
        ({"status": 404}, "HTTP Error 404: Not Found"),
    ],
)
def test_bad_download_leaves_nothing(
    make_voc: MakeVoc,
    server: Server,
    offer: Callable[..., None],
    tmp_path: Path,
    change: dict[str, object],
    said: str,
) -> None:
    offer(tar_of(make_voc()))
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(FileNotFoundError) as caught:
        VOCSegmentation(tmp_path / "root", download=True)
    line = str(caught.value)
    assert "\n" not in line and said in line and f"put it in {tmp_path / 'root'}" in line
    assert left_in(tmp_path / "root") == []


def test_root_that_can_not_be_made(offer: Callable[..., None], tmp_path: Path) -> None:
    offer(b"")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="could not download .*Not a directory"):
        VOCSegmentation(tmp_path / "file" / "root", download=True)


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def hostile(outside: Path) -> dict[str, list[tarfile.TarInfo]]:
    """Entries of archives, each of which would write, link or make something it should not."""
    inside = "VOCdevkit/VOC2012/x"
    return {
        "parent": [entry("../evil")],
        "parent further in": [entry("VOCdevkit/../../evil")],
        "symlink out": [entry(inside, tarfile.SYMTYPE, str(outside)), entry(f"{inside}/evil")],
        "hardlink": [entry(inside, tarfile.LNKTYPE, "../victim")],
        "device": [entry(inside, tarfile.CHRTYPE)],
        "pipe": [entry(inside, tarfile.FIFOTYPE)],
    }


@pytest.mark.parametrize("case", hostile(Path()))
def test_hostile_archive_is_refused(
    make_voc: MakeVoc, offer: Callable[..., None], tmp_path: Path, case: str
) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (tmp_path / "victim").write_text("as it was")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(make_voc(), arcname=".")
        for info in hostile(outside)[case]:
            tar.addfile(info)
    offer(stream.getvalue())
    with pytest.raises(DataError, match=r"^refused to unpack .*voc.tar: .*delete it"):
        VOCSegmentation(root, download=True)
    assert left_in(root) == [NAME] and left_in(outside) == []
    assert not list(tmp_path.rglob("evil")) and (tmp_path / "victim").read_text() == "as it was"


def test_absolute_name_stays_inside(offer: Callable[..., None], tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(entry(f"{tmp_path}/evil"))
    offer(stream.getvalue())
    with pytest.raises(DataError, match="holds no folder VOCdevkit/VOC2012"):
        VOCSegmentation(tmp_path / "root", download=True)
    assert left_in(tmp_path) == ["root"] and left_in(tmp_path / "root") == [NAME]


@pytest.mark.parametrize("content", [b"no archive at all", b""])
def test_no_archive(offer: Callable[..., None], tmp_path: Path, content: bytes) -> None:
    offer(content)
    with pytest.raises(DataError, match=r"^refused to unpack .*voc.tar: ") as caught:
        VOCSegmentation(tmp_path / "root", download=True)
    assert "\n" not in str(caught.value) and left_in(tmp_path / "root") == [NAME]


def deep_folders() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(entry("VOCdevkit/VOC2012/" + "a/" * 1500 + "x"))
    return stream.getvalue()


def deep_headers() -> bytes:
    """Each header says that the next one holds the name of the next one."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    block = header.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")
    return block * 3000 + entry("x").tobuf() + bytes(1024)


@pytest.mark.parametrize("content", [deep_folders, deep_headers])
def test_a_deep_archive_is_refused(
    offer: Callable[..., None], tmp_path: Path, content: Callable[[], bytes]
) -> None:
    offer(content())
    with pytest.raises(DataError, match=r"^refused to unpack .*voc.tar: .*delete it") as caught:
        VOCSegmentation(tmp_path / "root", download=True)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert left_in(tmp_path / "root") == [NAME]


def test_the_predecessors_download_extract(
    make_voc: MakeVoc, server: Server, tmp_path: Path
) -> None:
    server.content = tar_of(make_voc())
    url = f"http://127.0.0.1:{server.server_port}/{NAME}"
    for _ in range(2):  # it is fetched once
        download_extract(url, str(tmp_path), "my.tar", hashlib.md5(server.content).hexdigest())
        asked = server.requests
    assert server.requests == asked and (tmp_path / "my.tar").is_file()
    assert len(VOCSegmentation(tmp_path)) == 3
    with pytest.raises(FileNotFoundError, match="do not have the MD5"):
        download_extract(url, tmp_path, "other.tar", "0" * 32)
