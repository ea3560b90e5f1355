"""The store in a PostgreSQL database. It needs the extra `postgresql`, and is imported only when it is used."""
