"""How the subcommands of `journal` name a journal."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus_mp.addons.journal.store import Store

__all__ = ["add_db", "opened_store", "url_of"]


def add_db(parser: argparse.ArgumentParser) -> None:
    """Add the option `--db`."""
    parser.add_argument(
        "--db",
        metavar="URL",
        help="the journal: sqlite:///PATH or postgresql://HOST/DATABASE (default: a file of the user's)",
    )


def url_of(options: argparse.Namespace) -> str:
    """The URL of the journal that the options name."""
    from eventbus_mp.addons.journal.opening import default_url

    return str(options.db) if options.db is not None else default_url(options.bus)


def opened_store(options: argparse.Namespace) -> Store:
    """The journal that the options name, to be read and closed.

    Raises:
        UsageError: It is not the URL of a journal.
        StoreError: It does not exist, or cannot be read.
    """
    from eventbus_mp.addons.journal.opening import open_store

    return open_store(url_of(options))
