"""`python -m tests.addons.bridge.kills`: kill bridges of two hosts, or their NATS server, again and again under load.

One host publishes at a steady rate, the other one handles. At the end each event must have been handled once, and its
host must have heard of it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from eventbus_mp import Event, EventBus, WaitTimeout
from tests.addons.bridge.hosts import BridgeProcess, Host, sees
from tests.addons.bridge.nats_servers import DEBIAN, PYPI, NatsServer
from tests.helpers import pause

__all__ = ["main", "run"]

PATIENCE_S = 60.0
BATCH_S = 0.02
CATCH_UP = 10
"""After so many kills everything is settled once, or the bus would be full in the end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kill", choices=("bridges", "server"), default="bridges")
    parser.add_argument("--kills", type=int, default=200, metavar="N")
    parser.add_argument("--rate", type=int, default=5_000, metavar="N", help="events a second")
    parser.add_argument("--server", choices=("newest", "2.9"), default="newest")
    parser.add_argument("--seed", type=int, default=time.time_ns(), metavar="N")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    program = {"newest": PYPI, "2.9": DEBIAN}[options.server]
    with tempfile.TemporaryDirectory() as folder:
        published = run(Path(folder), options.kill, options.kills, options.rate, random.Random(options.seed), program)
    print(f"{options.kills} kills of {options.kill}, {published:,} events: 0 lost, 0 twice")


def run(folder: Path, victim: str, kills: int, rate: int, chance: random.Random, program: Path = PYPI) -> int:
    """Kill so many times: how many events were published. What is lost or comes twice is an assertion that fails."""
    handled: Counter[int] = Counter()
    with ExitStack() as stack:
        server = NatsServer(folder / "nats", program).start()
        stack.callback(server.kill)
        hosts = [_host(stack, name, folder, server) for name in ("test", "other")]
        bridges = [BridgeProcess(host, folder / f"{host.name}.log").start() for host in hosts]
        for bridge in bridges:
            stack.callback(bridge.stop)
        origin, receiver = (host.bus for host in hosts)
        receiver.on("order", name="bill")(lambda event: handled.update([event.data]))
        sees(origin, "bill", "other", why_not=lambda: _logs(folder))

        def kill() -> None:
            if victim == "server":
                server.kill()
                server.start()
            else:
                bridge = chance.choice(bridges)
                bridge.kill()
                bridge.start()

        try:
            published = _publish(origin, kills, rate, chance, kill)
            origin.drain(timeout_s=PATIENCE_S)
        except WaitTimeout:
            print(json.dumps(server.monitor("jsz?consumers=true"), indent=1), _logs(folder), sep="\n", flush=True)
            raise
        pause(0.5)  # What comes twice comes late.
    assert len(handled) == published, f"{published - len(handled)} of {published} events are lost"
    twice = {number: count for number, count in handled.items() if count > 1}
    assert not twice, f"{len(twice)} events came twice: {dict(list(twice.items())[:5])}"
    return published


def _host(stack: ExitStack, name: str, folder: Path, server: NatsServer) -> Host:
    bus = EventBus(name, ["order"], run_dir=str(folder / "run"), memory_bytes_max=128 << 20, manager_idle_s=5)
    bus.topics()
    stack.callback(bus.shutdown)
    return Host(name, bus, server.url)


def _publish(bus: EventBus, kills: int, rate: int, chance: random.Random, kill: Callable[[], None]) -> int:
    """Publish at this rate until so many were killed, each after a random time."""
    published, killed = 0, 0
    due_s = time.monotonic() + chance.uniform(0.2, 1.5)
    while killed < kills:
        count = max(1, int(rate * BATCH_S))
        bus.notify_many([Event(str(number), "order", number) for number in range(published, published + count)])
        published += count
        pause(BATCH_S)
        if time.monotonic() >= due_s:
            kill()
            killed += 1
            if killed % CATCH_UP == 0:
                bus.drain(timeout_s=PATIENCE_S)
                print(f"{killed} kills, {published:,} events", flush=True)
            due_s = time.monotonic() + chance.uniform(0.2, 1.5)
    return published


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))


if __name__ == "__main__":
    main()
