"""Bytes to messages and back. Knows no pipe, no clock, no decision."""
