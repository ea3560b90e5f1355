"""The journal: every event of a bus in a database, to look at and to publish again."""
