"""The bus beside its peers, on the same work, in one run: `python -m benchmarks`.

README.md says how to read it.

__main__.py      the command line; which runs, in which order
topologies.py    who sends how much to whom: one entry for each topology
payloads.py      what an event carries: a small dict, or an array that cannot be mistaken for another
peers/           one module for each peer; peers/interface.py is what a peer has to offer
child.py         a process of a run, with a pipe to the benchmark
consumer.py      a consumer process: the same for every peer
producers.py     what publishes: the benchmark itself, or processes that begin together
counters.py      the acknowledgement of those that have none
task.py          the work of a CPU-bound handler
measure.py       one run: start, warm up, publish, stop the clock at the last acknowledgement, check, clean up
report.py        the tables and the JSON; tables.py sets them out, plot.py draws them
scale/           what the bus costs as it grows: `python -m benchmarks.scale`
"""
