"""What a delivery is called on every host: the life of its event's bus, its sequence number, and whom it is for.

A key is 24 bytes: 8 of the life, 8 of the sequence number, 8 of the subscriber. An event that is imported for several
subscribers at once has one tag, its receipt's: life and sequence number once, and then each subscriber.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from eventbus_mp import EncodedData, Event, SubscriberKey
from eventbus_mp.addons.bridge.fields import Target

__all__ = ["HEAD_BYTES", "TARGETS_MAX", "digest", "head_of", "key_of", "keys_of", "life_of", "sequence_of", "target_of"]

DIGEST_BYTES = 8
LIFE_BYTES = 8
HEAD_BYTES = 16
"""The life and the sequence number."""
TARGETS_MAX = 6
"""For how many subscribers an event is imported at once; a tag has at most 64 bytes."""


def target_of(key: SubscriberKey) -> Target:
    """The subscriber as it travels. Its host is not part of it."""
    return Target(key.name, _packed(key.config))


def key_of(target: tuple[str, bytes], host: str | None = None) -> SubscriberKey:
    """The subscriber, of another host or (None) of this one."""
    name, config = target
    return SubscriberKey(name, Event.from_encoded("config", "config", EncodedData(config, ())).data, host)


def _packed(config: object) -> bytes:
    return bytes(Event("config", "config", config).encoded.data)


@lru_cache(maxsize=1 << 14)
def digest(target: tuple[str, bytes]) -> bytes:
    """Eight bytes that stand for the subscriber in keys and tags."""
    name, config = target
    return blake2b(name.encode() + b"\0" + config, digest_size=DIGEST_BYTES).digest()


def head_of(life: bytes, sequence: int) -> bytes:
    """What keys and tags of one event begin with."""
    return life + sequence.to_bytes(8, "little")


def keys_of(tag: bytes) -> list[bytes]:
    """The keys of all deliveries that an import is."""
    if len(tag) == HEAD_BYTES + DIGEST_BYTES:
        return [tag]
    head = tag[:HEAD_BYTES]
    return [head + tag[at : at + DIGEST_BYTES] for at in range(HEAD_BYTES, len(tag), DIGEST_BYTES)]


def life_of(key: bytes) -> bytes:
    """Of a key or a tag."""
    return key[:LIFE_BYTES]


def sequence_of(key: bytes) -> int:
    """Of a key or a tag."""
    return int.from_bytes(key[LIFE_BYTES:HEAD_BYTES], "little")
