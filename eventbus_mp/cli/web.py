"""`eventbus-mp web`: the live page of a bus."""

from __future__ import annotations

import argparse
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import run_root
from eventbus_mp.cli._text import print_json
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import UsageError
from eventbus_mp.memory.registered import show_unregistered

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]

PORT = 8321


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("web", help="show a bus on a web page (needs the packages starlette and uvicorn)")
    add_bus(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="listen there (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"0: any (default: {PORT})")
    parser.add_argument("--uds", metavar="PATH", help="listen on this socket of the file system instead")
    parser.add_argument("--token", metavar="TEXT", help="ask everybody for it; @FILE: it is in this file")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="the page is reached by it; may be repeated"
    )
    parser.add_argument("--allow-actions", action="store_true", help="let the page settle and redeliver events")
    parser.add_argument(
        "--journal", nargs="?", const="", metavar="URL", help="show this journal as well (no URL: the default one)"
    )
    add_json(parser, lines=True)
    return parser


def run(options: argparse.Namespace) -> int:
    """Serve the page until SIGTERM or Ctrl-C. The bus need not be running, and may come and go."""
    from eventbus_mp.addons.web import WebApp
    from eventbus_mp.addons.web.server import listening, serve

    if not 0 <= options.port <= 65_535:
        raise UsageError(f"--port {options.port}: give a number from 0 to 65535")
    token = _token(options.token)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("eventbus_mp.web").setLevel(logging.INFO)
    show_unregistered()  # Nothing of the programs that publish is imported here.
    app = WebApp(
        options.bus,
        hosts=[options.host, *options.allow_host],
        token=token,
        allow_actions=options.allow_actions,
        journal=_journal(options),
        config=BusConfig.from_environment(run_dir=str(run_root(options))),
    )
    with listening(options.host, options.port, options.uds, is_guarded=token is not None) as (listener, address):
        facts = {"bus": options.bus, "address": address}
        if options.json:
            serve(app, listener, said=lambda: print_json(facts, line=True))
        else:
            serve(app, listener, said=lambda: print(f"{options.bus}: {address}", flush=True))
    return Exit.DONE


def _journal(options: argparse.Namespace) -> str | None:
    """The URL of the journal; a wrong one is refused, but a store need not be there."""
    if options.journal is None:
        return None
    from eventbus_mp.addons.journal import StoreError, default_url, open_store

    url: str = options.journal or default_url(options.bus)
    with suppress(StoreError):  # The page says so, and goes on.
        open_store(url).close()
    return url


def _token(given: str | None) -> str | None:
    """The token itself, from the file that is named or as it is."""
    if given is None:
        return None
    token = given
    if given.startswith("@"):
        try:
            token = Path(given[1:]).read_text().strip()
        except (OSError, UnicodeDecodeError) as cause:
            raise UsageError(f"--token {given}: the file cannot be read: {cause}") from cause
    if not token:
        raise UsageError("--token: it is empty")
    return token
