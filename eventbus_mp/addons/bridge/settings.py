"""How a bridge is set up."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from eventbus_mp import InvalidPattern, UsageError
from eventbus_mp.addons.bridge.letters import checked_name

__all__ = ["BridgeSettings", "default_host"]

WHILE_AWAY = ("wait", "skip")


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """Raises:
    UsageError: One of them is not valid; the text says which.
    """

    cluster: str
    """The buses of a cluster see each other."""
    host: str
    """This host's name, which no other one of the cluster has."""
    topics: Sequence[str] = ()
    """Patterns of the topics whose events leave this host; none: all."""
    host_grace_s: float = 300.0
    """For how long events wait for a host that is away; then they are skipped, and its subscribers taken away."""
    while_away: str = "wait"
    """What becomes of events for a host that is away: "wait", or "skip" them at once."""
    start_grace_s: float = 10.0
    """For how long a bridge that begins waits for this host's subscribers, which may begin a little later."""

    def __post_init__(self) -> None:
        checked_name(self.cluster, "the cluster")
        checked_name(self.host, "the host")
        if self.while_away not in WHILE_AWAY:
            raise UsageError(f"while_away={self.while_away!r} is neither 'wait' nor 'skip'")
        for what, value in (("host_grace_s", self.host_grace_s), ("start_grace_s", self.start_grace_s)):
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1e7:
                raise UsageError(f"{what}={value!r} is not a time in seconds, from 0 to 10,000,000")
        for pattern in self.topics:
            _exported("", [pattern])

    def patterns(self, wanted: Sequence[str]) -> list[str]:
        """A remote subscriber's patterns, for those topics only that leave this host."""
        return [_exported(pattern, self.topics) for pattern in wanted] if self.topics else list(wanted)


def _exported(pattern: str, topics: Sequence[str]) -> str:
    """A pattern that matches what `pattern` does, among what one of `topics` does.

    Raises:
        InvalidPattern: It cannot be put together.
    """
    flags, rest = re.match(r"((?:\(\?[aiLmsux]+\))?)(.*)", pattern, re.DOTALL).groups()  # type: ignore[union-attr]
    scoped = f"(?{flags[2:-1]}:{rest})" if flags else f"(?:{rest})"
    joined = f"(?={'|'.join(f'(?:{topic})' for topic in topics)}){scoped}"
    try:
        re.compile(joined)
    except re.error as cause:
        raise InvalidPattern(f"pattern {pattern!r} with the exported topics {list(topics)}: {cause}") from cause
    return joined


def default_host() -> str:
    """This machine's name, made of characters that a mailbox's can have."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:64] or "host"
