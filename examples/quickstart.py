"""Two worker processes square numbers; this process prints the results. The same as in README.md."""

from eventbus_mp import Event, EventBus, WorkerPool

bus = EventBus("quickstart", topics=["number_found", "number_squared"])
pool = WorkerPool(bus, processes=2)


@pool.on("number_found")  # runs in the pool's two processes
def square(event):
    bus.notify(Event(event.id, "number_squared", event.data**2))


def show(event):
    print(f"{event.id} squared is {event.data}")


if __name__ == "__main__":
    bus.on("number_squared")(show)  # runs in this process
    with bus, pool:
        bus.notify_many(Event(str(n), "number_found", n) for n in range(10))
        bus.drain()  # wait until every event is settled
