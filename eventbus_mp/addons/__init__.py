"""Addons: what is built on the bus by its public names alone. Each is imported from its own module."""
