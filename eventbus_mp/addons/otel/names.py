"""The names of spans, metrics and attributes: OpenTelemetry's conventions for messaging, version 1.44, and ours.

They are written out here, because the module that has them (`opentelemetry.semconv._incubating`) is private and moves;
a test compares the two.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ACK",
    "ATTEMPT",
    "BATCH_MESSAGE_COUNT",
    "CLIENT_ID",
    "CONSUMED",
    "CONSUMER_GROUP_NAME",
    "CONVERSATION_ID",
    "CREATE",
    "DESTINATION_NAME",
    "ERROR_TYPE",
    "MESSAGE_ID",
    "OPERATION_DURATION",
    "OPERATION_NAME",
    "OPERATION_TYPE",
    "OUTCOME",
    "PROCESS",
    "PROCESS_DURATION",
    "PUBLISH",
    "RECEIVE",
    "SCHEMA_URL",
    "SECONDS",
    "SENT",
    "SERVER_ADDRESS",
    "SKIP",
    "SKIP_REASON",
    "SYSTEM",
    "SYSTEM_NAME",
    "Metric",
    "Operation",
    "error_type",
]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM = "messaging.system"
SYSTEM_NAME = "eventbus_mp"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION_NAME = "messaging.destination.name"
"""The topic."""
MESSAGE_ID = "messaging.message.id"
"""The event's id; of a batch, each link has one."""
CONVERSATION_ID = "messaging.message.conversation_id"
"""The event's transaction id."""
BATCH_MESSAGE_COUNT = "messaging.batch.message_count"
CONSUMER_GROUP_NAME = "messaging.consumer.group.name"
"""The subscriber, whose events several processes share."""
CLIENT_ID = "messaging.client.id"
"""pid@host"""
SERVER_ADDRESS = "server.address"
"""The bus's socket."""
ERROR_TYPE = "error.type"

ATTEMPT = "eventbus_mp.delivery.attempt"
"""Which one this is, from the second on; of a batch, links have it."""
OUTCOME = "eventbus_mp.outcome"
"""As `after_handle` of an instrument gets it; of a batch, the worst."""
SKIP_REASON = "eventbus_mp.skip.reason"


class Operation(NamedTuple):
    """What a span is about."""

    name: str
    type: str

    def span_name(self, topic: str | None) -> str:
        """The name of its span; None: of several topics."""
        return f"{self.name} {topic}" if topic is not None else self.name


PUBLISH = Operation("publish", "send")
CREATE = Operation("create", "create")
RECEIVE = Operation("receive", "receive")
PROCESS = Operation("process", "process")
ACK = Operation("ack", "settle")
SKIP = Operation("skip", "settle")


class Metric(NamedTuple):
    """An instrument of a meter."""

    name: str
    unit: str
    description: str


SENT = Metric(
    "messaging.client.sent.messages", "{message}", "Number of messages producer attempted to send to the broker."
)
CONSUMED = Metric(
    "messaging.client.consumed.messages", "{message}", "Number of messages that were delivered to the application."
)
"""Once a delivery, whichever way its event is taken."""
OPERATION_DURATION = Metric(
    "messaging.client.operation.duration",
    "s",
    "Duration of messaging operation initiated by a producer or consumer client.",
)
PROCESS_DURATION = Metric("messaging.process.duration", "s", "Duration of processing operation.")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The buckets of both durations."""


def error_type(error: BaseException | None) -> str:
    """The value of `error.type`: the name of its class, with its module unless it is Python's own; None: of several."""
    if error is None:
        return "_OTHER"
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
