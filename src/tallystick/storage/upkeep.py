"""What `verify` compares inside the database: set-based checks, each of which names what is wrong.

All checks read one snapshot, so a running engine does not disturb them. Some can be checked on the way to a
number only (a wallet is written a moment after the ledger): their statements say how they allow for it.
"""

from tallystick.engine.transitions import legal_moves
from tallystick.engine.views import Finding
from tallystick.storage.bridge import Connection
from tallystick.storage.queries import queries

TIMEOUT_S = 600.0
"""All checks together; each reads whole tables."""
_SQL = queries("findings")
_LEGAL_MOVES = sorted(f"{source}>{target}" for source, target in legal_moves())
# What a check needs beside the limit.
_ARGUMENTS = {"order_log": (_LEGAL_MOVES,)}


async def findings(connection: Connection, limit: int) -> list[Finding]:
    """Run every check; return at most `limit` findings of each."""
    found = []
    # Whole tables are compared here, so the planner may use everything it has (see bridge.py).
    for setting, value in (("enable_seqscan", "on"), ("enable_hashjoin", "on"), ("enable_mergejoin", "on")):
        await connection.execute("select set_config($1, $2, true)", setting, value)
    for check, query in _SQL.items():
        rows = await connection.fetch(query, limit, *_ARGUMENTS.get(check, ()))
        found += [Finding(check=check, subject=row["subject"], detail=row["detail"]) for row in rows]
    return found
