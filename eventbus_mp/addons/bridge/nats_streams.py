"""What a cluster has on its servers: one stream for all letters, two consumers a host, and a bucket of states."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from eventbus_mp.addons.bridge.letters import BOXES, MailboxesRefused
from eventbus_mp.addons.bridge.nats_lane import NO_RESPONDERS, Lane

__all__ = ["Streams"]

_NOT_FOUND = 10059
_THERE_ALREADY = {10058, 10065}  # Its name, or its subjects; perhaps made by another host at this moment.
_NANOSECONDS = 1_000_000_000
ACK_PENDING_MAX = 20_000
"""How many letters a host may hold unsettled; the server's own default is 1,000."""
PULLS_WAITING_MAX = 512


@dataclass(frozen=True)
class Streams:
    """The names and the configuration of all that is on the servers.

    A work queue keeps each letter until it is settled, and a full mailbox refuses for itself alone. Its consumers'
    filters never change. What several hosts make at once is the same, so that each of them finds it done.
    """

    cluster: str
    replicas: int
    letters_max: int
    letter_bytes_max: int
    ack_wait_s: float

    @property
    def letters(self) -> str:
        return f"EB_{self.cluster}"

    @property
    def states(self) -> str:
        """The stream of the bucket `EB_<cluster>_hosts`, as `nats kv` knows it."""
        return f"KV_EB_{self.cluster}_hosts"

    def box(self, box: str, host: str) -> str:
        return f"eb.{self.cluster}.{box}.{host}"

    def state(self, host: str) -> str:
        return f"$KV.EB_{self.cluster}_hosts.{host}"

    def next(self, box: str, host: str) -> str:
        """Where to ask for letters."""
        return f"$JS.API.CONSUMER.MSG.NEXT.{self.letters}.{box}_{host}"

    async def since(self, lane: Lane) -> int:
        """When the stream of letters was made, in ns since 1970; 0: there is none."""
        answer = await self._ask(lane, f"$JS.API.STREAM.INFO.{self.letters}", {})
        if _code(answer) == _NOT_FOUND:
            return 0
        _raise_if_refused(answer, f"show the stream {self.letters}")
        return _nanoseconds(answer["created"])

    async def make(self, lane: Lane, host: str) -> None:
        """Make what is not there yet.

        Raises:
            MailboxesRefused: Something is there and has another configuration, or the server cannot or may not do it.
        """
        await self._make_stream(lane, self._letters_config())
        await self._make_stream(lane, self._states_config())
        for box in BOXES:
            answer = await self._ask_for_consumer(lane, self.letters, self._box_config(box, host))
            _raise_if_refused(answer, f"make the consumer {box}_{host} of the stream {self.letters}")

    async def floor(self, lane: Lane, host: str) -> int:
        """The sequence number up to which the host has settled all letters with events.

        Raises:
            MailboxesRefused: As `make`.
        """
        # To make a consumer that is there tells about it as well, and needs no further permission.
        answer = await self._ask_for_consumer(lane, self.letters, self._box_config("to", host))
        _raise_if_refused(answer, f"show the consumer to_{host} of the stream {self.letters}")
        return int(answer["ack_floor"]["stream_seq"])

    async def watch(
        self, lane: Lane, name: str, deliver_to: str, heartbeat_s: float, forget_after_s: float
    ) -> int | None:
        """Have all states sent there, the present ones first: how many those are. None: there is no bucket."""
        config = {
            "name": name,
            "deliver_subject": deliver_to,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "max_deliver": 1,
            "filter_subject": self.state(">"),
            "idle_heartbeat": int(heartbeat_s * _NANOSECONDS),
            "inactive_threshold": int(forget_after_s * _NANOSECONDS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        answer = await self._ask_for_consumer(lane, self.states, config)
        if _code(answer) == _NOT_FOUND:
            return None
        _raise_if_refused(answer, f"watch the stream {self.states}")
        return int(answer["num_pending"])

    def _letters_config(self) -> dict[str, Any]:
        return {
            "name": self.letters,
            "subjects": [self.box(box, "*") for box in BOXES],
            "retention": "workqueue",
            "storage": "file",
            "discard": "new",
            "discard_new_per_subject": True,
            "max_msgs_per_subject": self.letters_max,
            "max_msg_size": self.letter_bytes_max,
            "num_replicas": self.replicas,
        }

    def _states_config(self) -> dict[str, Any]:
        """As `nats kv add` makes it, but that nobody can wipe out what others have said with a header."""
        return {
            "name": self.states,
            "subjects": [self.state(">")],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_msg_size": self.letter_bytes_max,
            "num_replicas": self.replicas,
            "allow_rollup_hdrs": False,
            "deny_delete": True,
            "allow_direct": True,
        }

    def _box_config(self, box: str, host: str) -> dict[str, Any]:
        return {
            "name": f"{box}_{host}",
            "durable_name": f"{box}_{host}",
            "filter_subject": self.box(box, host),
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(self.ack_wait_s * _NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": ACK_PENDING_MAX,
            "max_waiting": PULLS_WAITING_MAX,
        }

    async def _make_stream(self, lane: Lane, config: dict[str, Any]) -> None:
        name = config["name"]
        answer = await self._ask(lane, f"$JS.API.STREAM.INFO.{name}", {})
        if _code(answer) == _NOT_FOUND:
            answer = await self._ask(lane, f"$JS.API.STREAM.CREATE.{name}", config)
            if _code(answer) in _THERE_ALREADY:
                found = await self._ask(lane, f"$JS.API.STREAM.INFO.{name}", {})
                answer = answer if _code(found) == _NOT_FOUND else found
        _raise_if_refused(answer, f"make the stream {name}")
        there = answer["config"]
        if wrong := [key for key, value in config.items() if there.get(key, False) != value]:
            raise MailboxesRefused(
                f"the stream {name} has "
                + ", ".join(f"{key}={there.get(key)!r} and not {config[key]!r}" for key in wrong)
                + f"; start all hosts of the cluster alike, or correct it with: nats stream edit {name}"
            )

    async def _ask_for_consumer(self, lane: Lane, stream: str, config: dict[str, Any]) -> dict[str, Any]:
        # The filter is in the subject, so that the server's permissions can name it.
        subject = f"$JS.API.CONSUMER.CREATE.{stream}.{config['name']}.{config['filter_subject']}"
        return await self._ask(lane, subject, {"stream_name": stream, "config": config})

    async def _ask(self, lane: Lane, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await lane.ask(subject, json.dumps(body).encode())
        if _code(answer) == NO_RESPONDERS:
            raise MailboxesRefused(
                "the NATS server has no JetStream for this user; start it with -js, or give the account JetStream"
            )
        return answer


def _nanoseconds(time: str) -> int:
    """Of a time as `2026-11-28T02:58:44.55893444Z`."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * _NANOSECONDS + int(fraction.ljust(9, "0"))


def _code(answer: dict[str, Any]) -> int:
    return int(answer["error"].get("err_code", 0)) if "error" in answer else 0


def _raise_if_refused(answer: dict[str, Any], what: str) -> None:
    if error := answer.get("error"):
        raise MailboxesRefused(f"the NATS server does not {what}: {error.get('description', error)} ({_code(answer)})")
