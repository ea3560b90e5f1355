"""What the bus does on this machine, measured: `eventbus-mp bench`, and the runs of `benchmarks/`, its peers beside it.

topologies.py    who sends how much to whom: one entry for each topology
payloads.py      what an event carries: a small dict, or an array that cannot be mistaken for another
interface.py     what a peer has to offer
bus.py           the bus as a peer; inplace.py: arrays that are filled and read in place
child.py         a process of a run, with a pipe to the benchmark
consumer.py      a consumer process: the same for every peer
producers.py     what publishes: the benchmark itself, or processes that begin together
task.py          the work of a CPU-bound handler
measure.py       one run: start, warm up, publish, stop the clock at the last acknowledgement, check, clean up
"""
