"""What must hold between the tables at every moment, asked of them with SQL.

A search reads index rows alone and a read the resource row alone, so a half-written resource can
look whole from either side. These statements look from both.
"""

import sqlite3
from contextlib import closing

import asyncpg

from app import db

INDEXES = [t for name, t in db.metadata.tables.items() if name.startswith("index_")]
LIVE, GONE = 1, 2

RESOURCES = {
    "live or deleted resources without their current version": f"""
        SELECT count(*) FROM resource r
        LEFT JOIN resource_version v ON v.key = r.key AND v.version = r.version
        WHERE r.state IN ({LIVE}, {GONE}) AND v.key IS NULL""",
    "live resources whose current version is a deletion": f"""
        SELECT count(*) FROM resource r
        JOIN resource_version v ON v.key = r.key AND v.version = r.version
        WHERE r.state = {LIVE} AND v.op = 3""",
    "versions of no resource": """
        SELECT count(*) FROM resource_version v LEFT JOIN resource r ON r.key = v.key
        WHERE r.key IS NULL OR r.version < v.version""",
    "resources with a gap in their versions": """
        SELECT count(*) FROM (
            SELECT v.key FROM resource_version v LEFT JOIN expunged e ON e.key = v.key
            GROUP BY v.key, e.version
            HAVING count(*) <> max(v.version) - coalesce(e.version, 0)
        ) AS gaps""",
    "placeholders with a history": """
        SELECT count(*) FROM resource r JOIN resource_version v ON v.key = r.key
        WHERE r.state = 0""",
    "references to nothing": """
        SELECT count(*) FROM index_reference i LEFT JOIN resource r ON r.key = i.target
        WHERE r.key IS NULL""",
    "compartment rows without a live resource": f"""
        SELECT count(*) FROM compartment c
        LEFT JOIN resource r ON r.key = c.key AND r.state = {LIVE}
        WHERE r.key IS NULL""",
}
ROWS = {
    f"{table.name} rows without a live resource": f"""
        SELECT count(*) FROM {table.name} i
        LEFT JOIN resource r ON r.key = i.key AND r.state = {LIVE}
        WHERE r.key IS NULL"""
    for table in INDEXES
}
OWNERS = {
    f"{table.name} rows with another owner than their resource": f"""
        SELECT count(*) FROM {table.name} i JOIN resource r ON r.key = i.key
        WHERE i.owner <> r.owner"""
    for table in INDEXES
    if "owner" in table.c
}
RULES = {**RESOURCES, **ROWS, **OWNERS}


async def broken(database_url: str) -> dict[str, int]:
    """Return how often each rule is broken, without those that hold."""
    counts = [await number(database_url, statement) for statement in RULES.values()]
    return {rule: count for rule, count in zip(RULES, counts, strict=True) if count}


async def rows(database_url: str) -> dict[str, int]:
    """Return how many rows each table holds that tells of a resource; placeholders do not."""
    tables = {
        name: name for name in ("resource_version", "compartment", *(t.name for t in INDEXES))
    }
    tables["resource"] = "resource WHERE state <> 0"
    return {
        name: await number(database_url, f"SELECT count(*) FROM {table}")
        for name, table in tables.items()
    }


async def number(database_url: str, statement: str) -> int:
    """Return the only value that a statement yields."""
    if database_url.startswith("sqlite:///"):
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as file:
            return int(file.execute(statement).fetchone()[0])
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval(statement))
    finally:
        await connection.close()
