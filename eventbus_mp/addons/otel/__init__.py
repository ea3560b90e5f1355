"""OpenTelemetry: spans for what a process does on a bus, and traces that go on in the processes that get its events.

It needs the extra `otel`, which is the API of OpenTelemetry only; which SDK there is, and what it exports to, is the
program's business.
"""

from __future__ import annotations

from eventbus_mp import UsageError

try:
    import opentelemetry.trace as _needed
except ImportError as cause:
    raise UsageError(
        "tracing needs the package opentelemetry-api, which is not installed; type: pip install 'eventbus-mp[otel]'"
    ) from cause

from eventbus_mp.addons.otel.instrument import instrument, uninstrument
from eventbus_mp.addons.otel.propagate import context_of

__all__ = ["context_of", "instrument", "uninstrument"]

del _needed
