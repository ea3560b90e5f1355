"""URLs of stores, as they may be shown. Pure."""

from __future__ import annotations

import re

__all__ = ["shown_url"]

_PASSWORD = re.compile(r"(?<=[?&]password=)[^&]*|(?<=[?&]sslpassword=)[^&]*|(?<=//)([^:@/?]*):(.*)(?=@)", re.DOTALL)
"""Up to the last @, for a password may have one, or a / or ?, though it should not."""


def shown_url(url: str) -> str:
    """The URL with dots in the place of its passwords: for logs and messages."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:..." if found[1] is not None else "...", url)
