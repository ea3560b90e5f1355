"""The store in a SQLite file. The only folder that imports sqlite3."""
