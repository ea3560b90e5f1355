"""Processes, pipes and time: the parts that talk to the operating system."""
