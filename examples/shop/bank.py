"""A bank, as shops know them: it charges an order once, however often it is asked, and does not answer every time.

A SQLite file stands for it. It does not answer the first question about a card that begins with "slow", and refuses
one that begins with "blocked" until there is a file of the name `unblocked` in the shop's folder.
"""

import sqlite3
from contextlib import closing

from examples.shop.settings import BANK, FOLDER

SCHEMA = "CREATE TABLE IF NOT EXISTS orders(id TEXT PRIMARY KEY, asked INTEGER, charges INTEGER, cents INTEGER)"
ASK = """
    INSERT INTO orders VALUES (?, 1, 0, 0) ON CONFLICT(id) DO UPDATE SET asked = asked + 1
    RETURNING asked"""
CHARGE = "UPDATE orders SET charges = charges + 1, cents = ? WHERE id = ? AND charges = 0"


class NoAnswer(Exception):
    """The bank may or may not have charged the order. Ask again."""


class CardRefused(Exception):
    """The bank charges nothing to this card."""


def charge(order_id: str, cents: int, card: str) -> None:
    with _books() as books:
        [(asked,)] = books.execute(ASK, (order_id,)).fetchall()
        if card.startswith("blocked") and not (FOLDER / "unblocked").exists():
            raise CardRefused(f"card {card} is blocked")
        books.execute(CHARGE, (cents, order_id))
    if card.startswith("slow") and asked == 1:
        raise NoAnswer("the bank does not answer")


def charges() -> dict[str, int]:
    """How often each order was charged."""
    with _books() as books:
        return dict(books.execute("SELECT id, charges FROM orders"))


def _books():
    books = sqlite3.connect(BANK, timeout=30, isolation_level=None)  # each statement is a transaction
    books.execute("PRAGMA synchronous=OFF")  # fast, and safe unless the machine itself stops
    books.execute(SCHEMA)
    return closing(books)
