"""Show what has happened to an order, as a tree of spans: python -m examples.shop.trace ORDER"""

import json
import sys
from collections import defaultdict

from examples.shop.settings import TRACES


def trees(order):
    """The lines of each trace that this order is in, indented."""
    with open(TRACES) as file:
        spans = [json.loads(line) for line in file]
    traces = {span["trace"] for span in spans if span["order"] == order}
    children = defaultdict(list)
    for span in sorted(spans, key=lambda span: span["start_ns"]):
        if span["trace"] in traces:
            children[span["parent"]].append(span)

    def below(parent, depth):
        for span in children[parent]:
            outcome = f", {span['outcome']}" if span["outcome"] else ""
            yield f"{'  ' * depth + span['name']:<40} {span['ms']:8.1f} ms  process {span['pid']}{outcome}"
            yield from below(span["span"], depth + 1)

    yield from below(None, 0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    lines = list(trees(sys.argv[1]))
    print("\n".join(lines) or "there is no trace of this order")
    sys.exit(0 if lines else 1)
