"""The server of `python -m utils.visualizer serve`, and how it gets its page's files."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.visualizer.__main__ import main
from utils.visualizer.dashboard import server

CONTENT = b"/* a script */"


def archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of the only package, and an npm that copies it to where it is called."""
    original = tmp_path / "original.tgz"
    archive(original, {"dist/a.js": CONTENT, "other.js": b"unused"})
    digest = base64.b64encode(hashlib.sha512(original.read_bytes()).digest()).decode()
    packages = {"a@1.0": {"sha512": digest, "files": {"dist/a.js": "js/a.js"}}}
    monkeypatch.setattr(server, "PACKAGES", packages)
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncp {original} a-1.0.tgz\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}/usr/bin:/bin")
    return original


def test_missing_files_come_from_npm_once(package: Path, tmp_path: Path) -> None:
    page = tmp_path / "static"
    assert server.missing_files(page) == ["js/a.js"]
    server.fetch(page)
    assert (page / "js" / "a.js").read_bytes() == CONTENT
    server.fetch(page)
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert "--ignore-scripts" in call and call.endswith("a@1.0")


def test_archive_with_another_checksum_is_not_used(package: Path, tmp_path: Path) -> None:
    archive(package, {"dist/a.js": b"evil"})
    with pytest.raises(ValueError, match="SHA-512 .* not used"):
        server.fetch(tmp_path / "static")
    assert server.missing_files(tmp_path / "static") == ["js/a.js"]


def test_without_npm_the_message_says_what_to_install(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install npm"):
        server.fetch(tmp_path / "static")


def test_npm_that_fails_is_one_line(package: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "npm").write_text(
        "#!/bin/sh\necho >&2; echo 'npm no network' >&2; exit 1\n"
    )
    with pytest.raises(ValueError, match="could not fetch a@1.0: npm no network$"):
        server.fetch(tmp_path / "static")


def test_server_names_the_command_that_gets_missing_files(
    needs_visdom: None,
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], list[str]],
) -> None:
    monkeypatch.setattr(server, "page_folder", lambda: tmp_path / "static")
    assert main(["serve"]) == 2
    (line,) = said()
    assert "js/a.js" in line and "python -m utils.visualizer assets" in line


def test_port_in_use_is_one_line(
    needs_visdom: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], list[str]],
) -> None:
    monkeypatch.setattr(server, "PACKAGES", {})
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port), "--env_path", str(tmp_path)]) == 2
    assert f"port {port} is not free" in said()[-1]
