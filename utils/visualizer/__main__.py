"""The dashboard's server, and runs shown again or beside each other.

python -m utils.visualizer serve                     # a Visdom server on this machine
python -m utils.visualizer assets                    # the files of its page, once, with npm
python -m utils.visualizer show RUN_DIR [RUN_DIR...] # send finished or running runs to it
python -m utils.visualizer compare RUN_DIR RUN_DIR ... --output FILE.html   # as one page
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.runtime.console import say

from .dashboard import DEFAULT_PORT, Dashboard, env_of_run, server
from .dashboard.sender import require_server
from .record import Record
from .report import save_comparison


def show(folder: Path, *, port: int) -> bool:
    """Send a run to its environment; whether the server has all of it."""
    record = Record.read(folder)
    env = env_of_run(record.folder, start=record.facts.get("started", ""))
    dashboard = Dashboard(env, folder=record.folder, port=port, tell_past=record.replay)
    return dashboard.finish(limit=30, unless_finished="not finished")


def parser() -> argparse.ArgumentParser:
    """The command line: a command, and what it needs."""
    program = argparse.ArgumentParser(
        prog="python -m utils.visualizer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = program.add_subparsers(dest="command", required=True, metavar="COMMAND")
    with_port = argparse.ArgumentParser(add_help=False)
    with_port.add_argument("--port", type=int, default=DEFAULT_PORT, help="default: %(default)s")
    serving = commands.add_parser("serve", parents=[with_port], help="start the server")
    serving.add_argument("--env_path", type=Path, help="folder of saved runs (default: ~/.visdom)")
    commands.add_parser("assets", help="get the files of the server's page")
    showing = commands.add_parser("show", parents=[with_port], help="send runs to the server")
    showing.add_argument("folders", nargs="+", type=Path, metavar="RUN_DIR")
    comparing = commands.add_parser("compare", help="write one page that shows several runs")
    comparing.add_argument("folders", nargs="+", type=Path, metavar="RUN_DIR")
    comparing.add_argument("--output", type=Path, default=Path("compare.html"), metavar="FILE")
    return program


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        match arguments.command:
            case "serve":
                server.serve(arguments.port, env_path=arguments.env_path)
            case "assets":
                server.fetch(server.page_folder())
            case "show":
                require_server(arguments.port)
                sent = [show(folder, port=arguments.port) for folder in arguments.folders]
                return 0 if all(sent) else 1
            case "compare":
                save_comparison(arguments.folders, arguments.output)
                say(f"comparison: {arguments.output}")
    except (ValueError, OSError) as error:
        say(f"utils.visualizer: error: {error}", error=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
