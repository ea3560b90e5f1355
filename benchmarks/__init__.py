"""The bus beside its peers, on the same work, in one run: `python -m benchmarks`.

README.md says how to read it.

__main__.py      the command line; which runs, in which order
topologies.py    who sends how much to whom: one entry for each topology
peers/           one module for each peer; peers/interface.py is what a peer has to offer
consumer.py      a consumer process: the same for every peer
measure.py       one run: start, publish, stop the clock at the last acknowledgement, check, clean up
report.py        the tables and the JSON
"""
