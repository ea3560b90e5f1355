"""An inbox in an asyncio program: its descriptor is readable while something is waiting."""

import asyncio
import threading

from eventbus_mp import Event, EventBus

bus = EventBus("example-asyncio", topics=["tick"])


async def collect(inbox, wanted):
    """Take `wanted` events without blocking the loop."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(inbox.fileno(), arrived.set)
    numbers = []
    try:
        while len(numbers) < wanted:
            await arrived.wait()
            for shadow in inbox.get_many(100, timeout_s=0):  # 0: only look, never block
                numbers.append(bus.fetch_event_data(shadow))
                inbox.complete(shadow)
            arrived.clear()
    finally:
        loop.remove_reader(inbox.fileno())
    return numbers


async def count_beats(beats):
    """The loop's other work meanwhile."""
    while True:
        beats.append(1)
        await asyncio.sleep(0.001)


def publish():
    for number in range(5):
        bus.notify(Event(str(number), "tick", number))


async def main():
    with bus.inbox("ticks", ["tick"]) as inbox:
        beats = []
        other = asyncio.create_task(count_beats(beats))
        await asyncio.sleep(0)
        threading.Thread(target=publish).start()
        print("collected", await collect(inbox, 5))
        print("the loop went on meanwhile:", bool(beats))
        other.cancel()


if __name__ == "__main__":
    asyncio.run(main())
    bus.shutdown()
