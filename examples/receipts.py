"""What became of each event: its producer hears it, or the next process of the same name, until it is confirmed."""

from eventbus_mp import Event, EventBus, Skip

bus = EventBus("example-receipts", topics=["order"])


def bill(event: Event) -> None:
    if event.data < 0:
        raise Skip("nothing to bill")


def publish() -> None:
    with bus.receipts("shop") as receipts:
        orders = [Event(f"order-{number}", "order", amount) for number, amount in enumerate((30, -1, 20))]
        receipts.notify_many(orders, tags=[b"row 1", b"row 2", b"row 3"])
        # This process ends here, or is killed, and has not asked.


def take_up() -> None:
    with bus.receipts("shop") as receipts:
        missing = {b"row 1", b"row 2", b"row 3"}
        while missing:
            for receipt in receipts.get(timeout_s=10):
                fate = "billed" if receipt.watcher.completers else "skipped"
                for tag in receipt.tags:
                    print(f"{tag.decode()} is {fate}")
                missing.difference_update(receipt.tags)
                receipts.confirm(receipt.tags)  # After this, no process hears of them again.


if __name__ == "__main__":
    bus.on("order", name="bill")(bill)
    with bus:
        publish()
        take_up()
