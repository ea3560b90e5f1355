"""URLs of stores, as they may be shown. Pure."""

from __future__ import annotations

import re

__all__ = ["shown_url"]

_PASSWORD = re.compile(r"(?<=[?&]password=)[^&]*|(?<=[?&]sslpassword=)[^&]*|(?<=//)([^:@/?]*):([^@/?]*)(?=@)")


def shown_url(url: str) -> str:
    """The URL with dots in the place of its passwords: for logs and messages."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:..." if found[1] is not None else "...", url)
