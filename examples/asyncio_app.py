"""An asyncio program: one handler works on five orders at once, an inbox collects the bills, and a call waits."""

import asyncio

from eventbus_mp import Event, aio

bus = aio.EventBus("example-aio", topics=["order", "bill"])


@bus.on("order", concurrency=5)
async def charge(event):
    await asyncio.sleep(0.01)  # A payment service, say.
    await bus.notify(Event(event.id, "bill", event.data * 2))


async def collect(inbox, wanted):
    total = 0
    async for shadow in inbox:
        total += await bus.fetch_event_data(shadow)
        await inbox.complete(shadow)
        wanted -= 1
        if not wanted:
            return total


async def main():
    async with bus, await bus.inbox("bills", ["bill"]) as inbox:
        collecting = asyncio.create_task(collect(inbox, 10))
        for number in range(9):
            await bus.notify(Event(str(number), "order", number))
        watcher = await bus.notify_and_wait(Event("last", "order", 100), timeout_s=10)
        print("settled by", len(watcher.completers), "subscriber")
        print("all bills:", await collecting)
        await bus.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
