"""The bridge: one bus over several hosts, by one process a host, over NATS JetStream."""

from __future__ import annotations

from eventbus_mp.addons.bridge.bridge import Bridge
from eventbus_mp.addons.bridge.letters import MailboxError, MailboxesRefused, MailboxesUnreachable
from eventbus_mp.addons.bridge.status import BridgeStatus, HostStatus

__all__ = ["Bridge", "BridgeStatus", "HostStatus", "MailboxError", "MailboxesRefused", "MailboxesUnreachable"]
