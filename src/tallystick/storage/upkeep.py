"""What `verify` compares inside the database: set-based checks, each of which names what is wrong."""

from tallystick.engine.views import Finding
from tallystick.storage.bridge import Connection
from tallystick.storage.queries import queries

TIMEOUT_S = 600.0
"""All checks together; each reads whole tables."""
_SQL = queries("findings")


async def findings(connection: Connection, limit: int) -> list[Finding]:
    """Run every check; return at most `limit` findings of each."""
    found = []
    # Whole tables are compared here, so the planner may use everything it has (see bridge.py).
    for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin"):
        await connection.execute("select set_config($1, 'on', true)", setting)
    for check, query in _SQL.items():
        rows = await connection.fetch(query, limit)
        found += [Finding(check=check, subject=row["subject"], detail=row["detail"]) for row in rows]
    return found
