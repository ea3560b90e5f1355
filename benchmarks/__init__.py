"""The bus beside its peers, on the same work, in one run: `python -m benchmarks`.

README.md says how to read it. What measures is in `eventbus_mp/bench`: `eventbus-mp bench` uses it as well.

__main__.py      the command line; which runs, in which order
peers/           one module for each peer; `eventbus_mp/bench/interface.py` is what a peer has to offer
counters.py      the acknowledgement of those that have none
report.py        the tables and the JSON; tables.py sets them out, plot.py draws them
scale/           what the bus costs as it grows: `python -m benchmarks.scale`
"""
