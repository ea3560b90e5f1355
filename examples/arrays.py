"""Arrays without a copy: a camera fills shared memory in place, and two readers look at the same bytes.

A view keeps its memory for as long as it lives, even if its event was settled long ago.
"""

import dataclasses

import numpy as np

from eventbus_mp import Event, EventBus, register_type

bus = EventBus("example-arrays", topics=["frame_taken", "face_found"])


@register_type  # known by every process that imports this file
@dataclasses.dataclass
class Face:
    frame: str
    pixels: np.ndarray


def main():
    faces, archive = bus.inbox("faces", ["frame_taken"]), bus.inbox("archive", ["frame_taken", "face_found"])

    with bus.loan("frame_taken", shape=(480, 640, 3), dtype="uint8", id="frame-1") as loan:
        loan.array[:] = 0
        loan.array[100:200, 300:400] = 255  # straight into shared memory

    shadow = faces.get()
    frame = bus.fetch_event_data(shadow)  # straight from there
    print(f"{shadow.id}: {frame.shape} {frame.dtype}, writeable: {frame.flags.writeable}")
    bus.notify(Event("face-1", "face_found", Face(shadow.id, frame[100:200, 300:400])))  # any array, copied once
    faces.complete(shadow)

    kept = None
    for shadow in archive.get_many(1) + archive.get_many(1):
        data = bus.fetch_event_data(shadow)
        if isinstance(data, Face):
            print(f"{shadow.id}: {data.pixels.shape} of {data.frame}, mean {data.pixels.mean():.0f}")
            kept = data.pixels[::10, ::10, 0]
        del data
        archive.complete(shadow)

    bus.drain()
    leased = bus.statistics().memory_bytes_leased > 0
    print(f"settled, and still readable: {kept.sum()}, for its memory is leased: {leased}")
    bus.shutdown()


if __name__ == "__main__":
    main()
