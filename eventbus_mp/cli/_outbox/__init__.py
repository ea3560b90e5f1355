"""The subcommands of `eventbus-mp outbox`; made like commands, and found by outbox.py."""
