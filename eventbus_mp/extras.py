"""What is said when an optional package is missing: everywhere the same error, with what to install."""

from __future__ import annotations

from eventbus_mp.errors import UsageError

__all__ = ["not_installed"]


def not_installed(what: str, package: str, extra: str, *, otherwise: str = "") -> UsageError:
    """The error to raise from the `ImportError`.

    Args:
        what: What needs the package.
        package: Its name.
        extra: The extra of this distribution that brings it.
        otherwise: What can be done without it.
    """
    advice = f"type: pip install 'eventbus-mp[{extra}]'" + (f", or {otherwise}" if otherwise else "")
    return UsageError(f"{what} needs the package {package}, which is not installed; {advice}")
