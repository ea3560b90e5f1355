"""A bus in one process and one thread, for tests. Not public yet: users' tests get their own face of it later."""
