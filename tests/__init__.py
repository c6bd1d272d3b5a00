"""The tests: what must stay true of Milepost, on SQLite and on PostgreSQL."""
