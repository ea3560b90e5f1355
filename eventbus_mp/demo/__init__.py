"""The demo: measure a tree of Python files with a pipeline of worker processes on the bus."""
