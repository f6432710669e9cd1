"""A Visdom server for this machine alone, which needs no internet, and the files of its page.

Visdom's own command fetches scripts, style sheets and fonts from public servers when it starts; it
hangs or stops where it can't. Here npm fetches them once: `fetch`.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.runtime.console import list_names, say
from utils.runtime.files import write_bytes

from .sender import HOST

NPM_SECONDS = 300
INSTALL = (
    "install Visdom with: pip install 'setuptools>=77.0.3,<81' && "
    "pip install --no-build-isolation -r requirements-visdom.txt"
)
# Package of npm -> its SHA-512, and the files in it with their places below Visdom's folder.
PACKAGES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("page_files.json").read_text(encoding="utf-8")
)


def page_folder() -> Path:
    """Where Visdom keeps what browsers load."""
    spec = importlib.util.find_spec("visdom")  # it does not import it
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"Visdom is not installed; {INSTALL}")
    return Path(spec.origin).parent / "static"


def missing_files(folder: Path) -> list[str]:
    """The files of the page that are not in `folder`."""
    wanted = [place for package in PACKAGES.values() for place in package["files"].values()]
    return [place for place in wanted if not (folder / place).is_file()]


def fetch(folder: Path) -> None:
    """Put the missing files of the page into `folder`, with npm; each archive is checked.

    Raises FileNotFoundError without npm, ValueError if it fails or sends something else, OSError
    if the folder can't be written to.
    """
    missing = set(missing_files(folder))
    packages = {n: p for n, p in PACKAGES.items() if missing & set(p["files"].values())}
    if not packages:
        return
    with tempfile.TemporaryDirectory() as archives:
        _pack(list(packages), Path(archives))
        for name, package in packages.items():
            _unpack(name, package, Path(archives), folder)
    say(f"{len(missing)} files written to {folder}")


def _pack(names: list[str], folder: Path) -> None:
    """Let npm download the archives of packages into `folder`; it runs nothing of theirs."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            "npm is not on PATH, and it fetches the page's files; install it (Debian: "
            "apt-get install npm), or start the command `visdom` once where the internet is"
        )
    command = [npm, "pack", "--silent", "--ignore-scripts", "--fetch-retries=1", *names]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"npm took more than {NPM_SECONDS} s; is there a network?") from None
    if done.returncode:
        lines = done.stderr.split("\n")
        why = next((line for line in lines if line.strip()), "is there a network?")
        raise ValueError(f"npm could not fetch {list_names(names)}: {why.strip()}")


def _unpack(name: str, package: dict[str, Any], archives: Path, folder: Path) -> None:
    archive = archives / f"{name.replace('@', '-')}.tgz"  # as npm names it
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package["sha512"]:
        raise ValueError(f"{name} from npm has SHA-512 {digest}, not {package['sha512']}: not used")
    with tarfile.open(archive) as tar:
        # The folder within is usually, but not always, named "package".
        members = {member.name.partition("/")[2]: member for member in tar if member.isfile()}
        for inside, place in package["files"].items():
            file = tar.extractfile(members[inside])
            assert file is not None  # it is a file
            write_bytes(folder / place, file.read())


def serve(port: int, *, env_path: Path | None = None) -> None:
    """Serve until interrupted, on this machine alone.

    Args:
        port: the port; ValueError if something else listens there.
        env_path: the folder in which Visdom keeps saved environments; by default ~/.visdom.
    """
    folder = page_folder()
    if missing := missing_files(folder):
        raise FileNotFoundError(
            f"the page lacks {len(missing)} files ({list_names(missing, shown=3)}); get them with: "
            "python -m utils.visualizer assets"
        )
    import tornado.ioloop
    import tornado.web
    from visdom.server import app
    from visdom.server.defaults import DEFAULT_ENV_PATH

    class PageFiles(tornado.web.StaticFileHandler):
        @classmethod
        def get_version(cls, settings: dict[str, Any], path: str) -> str | None:
            """None for "../user/style.css", which tornado refuses from 6.6 on, and for MathJax."""
            special = path.startswith(("..", "js/mathjax"))
            return None if special else super().get_version(settings, path)

    class NoMathJax(tornado.web.RequestHandler):
        def get(self) -> None:
            """An empty script: MathJax is large, and would only typeset formulas."""
            self.set_header("Content-Type", "text/javascript")

    with suppress(OSError):  # Visdom looks there, too, when it compares environments
        Path(DEFAULT_ENV_PATH).mkdir(parents=True, exist_ok=True)
    # Without the second, the server starts anew, and forgets, when a source file changes.
    app.tornado_settings |= {"static_handler_class": PageFiles, "autoreload": False}
    application = app.Application(
        port=port, base_url="", env_path=str(env_path or DEFAULT_ENV_PATH)
    )
    application.add_handlers(".*", [("/static/js/mathjax/.*", NoMathJax)])
    try:
        application.listen(port, address=HOST, max_buffer_size=2**30)
    except OSError as error:
        raise ValueError(
            f"port {port} is not free ({error.strerror}); is a server running already? "
            "Choose another one with --port"
        ) from error
    say(f"Visdom: http://localhost:{port} (Ctrl-C ends it)")
    tornado.ioloop.IOLoop.current().start()
