"""Who did what, and to whose record: what the audit trail holds, and what it proves."""
