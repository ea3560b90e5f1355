"""Answers with many parts as lines of a transcript; what is 0 or empty is left out."""

from typing import Any

import msgpack

from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.records import RECORD

UNSAID: tuple[Any, ...] = (0, None, "", [], {}, b"", "host")
"""The last one is the scope of a subscriber that asks for none."""
PARTS = {"topics": "topic", "subscribers": "subscriber", "processes": "process"}


def shown(row):
    return " ".join(f"{name}={value}" for name, value in row.items() if value not in UNSAID)


def history_lines(link, answer):
    counts = ", ".join(f"{HistoryKind(kind).name.lower()} {count}" for kind, count in answer["counts"].items())
    lines = [f"reply {link}: {counts or 'nothing'}{'; there is more' if answer['before'] else ''}"]
    for at_ns, kind, events, topics, pid, name, _, host, detail in answer["entries"]:
        who = f"{name}@{host}" if host else name
        parts = [f"  {at_ns} {HistoryKind(kind).name.lower()} {events} of {','.join(topics) or 'none'}"]
        parts += [f"process {pid}"] * bool(pid) + [f"for {who}"] * bool(name) + [f"({detail})"] * bool(detail)
        lines.append(" ".join(parts))
    return "\n".join(lines)


def unsettled_lines(link, answer, names):
    """What an event, or the bus, waits for, and views; `names` of events by sequence."""
    rows = [
        {**row, "record": names[RECORD.unpack(row["record"])[-1]]} if "record" in row else row
        for row in answer["deliveries"]
    ]
    lines = [f"  {shown(row)}" for row in rows] + [f"  view {shown(row)}" for row in answer.get("views", ())]
    return "\n".join([f"reply {link}:", *lines] if lines else [f"reply {link}: nothing"])


def snapshot_lines(link, value):
    lines = [f"reply {link}: {shown(value['events'])}"]
    manager = {name: value[name] for name in ("is_end_asked", "leaves_in_ns")}
    lines += [f"  memory {shown(value['memory'])}", f"  takeovers={value['takeovers']} {shown(manager)}".rstrip()]
    for part, name in PARTS.items():
        for row in value[part]:
            handling = {f"2^{k}": count for k, count in enumerate(row.get("handling", ())) if count}
            lines.append(f"  {name} {shown({**row, 'handling': handling})}")
    return "\n".join(lines)


def said_facts(data):
    """What an event about the bus says, without the time."""
    return " ".join(f"{key}={value}" for key, value in msgpack.unpackb(data).items() if key != "at_ns")
