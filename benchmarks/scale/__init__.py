"""What the bus costs as it grows: `python -m benchmarks.scale`.

__main__.py      the command line, the tables, the JSON
growth.py        cost of an event with more backlog, topics, endpoints, subscribers
standing.py      what it costs to connect, to idle, and to have been running for long
setting.py       a bus of its own for each case; processes that subscribe
proc.py          what the kernel says of a process
"""
