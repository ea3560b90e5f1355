"""Trials of the bus under web servers.

`python -m tests.servers --server uvicorn --requests 3000 --disturb hup,kill-worker`; without `--server`, all of them,
one after the other. The suite has a short version; this is for the figures of docs/failures.md. A trial fails if an
event was lost, a request hung or failed, a worker read a stale value or would have to be started again, the manager was
replaced, a log complains, or anything is left.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.servers.programs import SERVERS
from tests.servers.trial import DISTURBANCES, run_trial

USUAL = "hup,kill-worker,manager-term,hup,max-requests"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__.partition("\n")[0])
    parser.add_argument("--server", choices=SERVERS, action="append", help="may be repeated; none: all")
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--disturb", default=USUAL, help=f"a list of {', '.join(DISTURBANCES)}; default: %(default)s")
    options = parser.parse_args()
    disturb = tuple(filter(None, options.disturb.split(",")))
    if unknown := set(disturb) - set(DISTURBANCES):
        parser.error(f"there is no disturbance {', '.join(sorted(unknown))}")
    failed = 0
    for name in options.server or SERVERS:
        if missing := SERVERS[name].missing():
            print(f"{name}: skipped, {missing} is not installed", flush=True)
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="ebmp-") as directory:
                figures = run_trial(SERVERS[name], Path(directory), options.requests, disturb)
        except AssertionError as error:  # It did not come up: the others are tried all the same.
            print(f"{name}: {error}", flush=True)
            failed += 1
            continue
        print(f"{name}: {figures}", flush=True)
        if faults := figures.faults(disturb):
            print(f"{name}: FAILED by {faults}", flush=True)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
