"""The only module that imports rich, the optional library for output on a terminal.

Only the command line and the demo import this module. If rich is not installed, the import ends the program with one
sentence that says what to install.
"""

try:
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Table
    from rich.text import Text
except ImportError as cause:
    raise SystemExit(
        "eventbus-mp: this command needs the package rich, which is not installed; type: pip install 'eventbus-mp[cli]'"
    ) from cause

__all__ = [
    "BarColumn",
    "Console",
    "ProgressColumn",
    "RichProgress",
    "Table",
    "Task",
    "Text",
    "TextColumn",
    "TimeRemainingColumn",
    "box",
    "printable",
]


def printable(text: str, console: Console) -> str:
    """`text` on one line: control characters, and what the output cannot encode, become escapes.

    File names may hold newlines, terminal escapes, or bytes that are not UTF-8 (lone surrogates in Python).
    """
    escaped = "".join(char if char.isprintable() else _escape(char) for char in text)
    return escaped.encode(console.encoding, "backslashreplace").decode(console.encoding)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
