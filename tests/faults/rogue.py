"""A client that does what it likes: the handshake and the two pipes, and nothing of ours on top."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

from eventbus_mp.geometry import SEQUENCE_LINK_SHIFT
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import Replied, SpanGranted
from eventbus_mp.protocol.decoders import ClientDecoder, encode_request, unpack
from eventbus_mp.protocol.messages import SPAN_NEEDED
from eventbus_mp.protocol.requests import Request
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.rundir import RunDir

__all__ = ["Rogue"]

PATIENCE_S = 30.0


class Rogue:
    """One link to the manager of bus "test" in `run_dir`, spoken by hand."""

    def __init__(self, run_dir: Path) -> None:
        with handshake.connect(RunDir(run_dir, "test").socket, PATIENCE_S) as connection:
            connection.sendall(handshake.hello())
            self.welcome, self.incoming, self.outgoing = handshake.receive_welcome(connection)
        self._stream = ClientDecoder()
        self._arrived: list[Any] = []
        self.first_sequence = (self.welcome.link << SEQUENCE_LINK_SHIFT) + 1

    def __enter__(self) -> Rogue:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def send(self, *parts: bytes) -> None:
        """Write all of it, unless the manager closed the pipe."""
        data = b"".join(parts)
        try:
            while data:
                data = data[os.write(self.outgoing, data) :]
        except BrokenPipeError:
            return

    def hear(self, kind: type) -> Any:
        """The next message of this kind; EOFError when the link was closed."""
        while True:
            for index, message in enumerate(self._arrived):
                if isinstance(message, kind):
                    return self._arrived.pop(index)
            self._arrived += self._stream.feed(self._read())

    def _read(self) -> bytes:
        assert select.select([self.incoming], [], [], PATIENCE_S)[0], "the manager says nothing"
        data = os.read(self.incoming, 1 << 16)
        if not data:
            raise EOFError
        return data

    def ask(self, request: type[Request], *fields: Any) -> Any:
        """Ask and take the answer, as it travels."""
        self.send(encode_request(request(0, 1, *fields)))
        return unpack(self.hear(Replied).body)

    def span(self, length: int = 1 << 18) -> SpanGranted:
        """Memory to write."""
        self.send(records.pack_span_wanted(length, SPAN_NEEDED))
        granted: SpanGranted = self.hear(SpanGranted)
        return granted

    def is_cut_off(self) -> bool:
        """Wait for the manager to close the link."""
        try:
            while True:
                self._read()
        except EOFError:
            return True

    def close(self) -> None:
        for fd in (self.incoming, self.outgoing):
            if fd >= 0:
                os.close(fd)
        self.incoming = self.outgoing = -1
