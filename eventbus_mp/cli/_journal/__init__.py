"""The subcommands of `eventbus-mp journal`; made like commands, and found by journal.py."""
