"""Reads what test_generated_values.py publishes: `python -m tests.memory.value_reader RUN_DIR SEED COUNT STACK_BYTES`.

It makes the same values of the same seed and compares them, in a thread with a stack of this size.
"""

import sys
import threading
import traceback

from eventbus_mp import EventBus
from tests.memory.generated import Values, difference


def read(bus: EventBus, seed: str, count: int) -> None:
    values, wanted = Values(seed), 0
    with bus.inbox("reader", ["values"]) as inbox:
        print("ready", flush=True)
        while wanted < count:
            for shadow, event in inbox.events(1000):
                assert event.id == wanted, f"event {event.id} of seed {seed!r} came where {wanted} was due"
                found = difference(event.data, values.draw())
                assert found is None, f"value {wanted} of seed {seed!r}: {found:.2000}"
                wanted += 1
                del event
                inbox.complete(shadow)
    print(wanted, "equal", flush=True)


def main(run_dir: str, seed: str, count: str, stack_bytes: str) -> int:
    failed = []

    def work() -> None:
        try:
            with EventBus("test", run_dir=run_dir) as bus:
                read(bus, seed, int(count))
        except BaseException:
            failed.append(traceback.format_exc())

    threading.stack_size(int(stack_bytes))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print(*failed, flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
