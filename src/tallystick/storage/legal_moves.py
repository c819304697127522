"""Generate the SQL that makes the database refuse moves which the transition table does not allow.

`python -m tallystick.storage.legal_moves` prints it; a test demands that the newest migration which defines the
trigger holds exactly this text. A new legal move therefore comes with a new migration.
"""

import sys

from tallystick.engine.transitions import legal_moves

_TRIGGER = """\
create trigger payment_orders_moves_legally
before update on payment_orders
for each row
when (
    old.state <> new.state
    and (old.state || '>' || new.state) not in (
{moves}
    )
)
execute function refuse_illegal_move();
"""


def legal_moves_sql() -> str:
    """Return the trigger on payment_orders, with every legal move of the transition table, in sorted order."""
    moves = sorted(f"'{source}>{target}'" for source, target in legal_moves())
    return _TRIGGER.format(moves=",\n".join(f"        {move}" for move in moves))


if __name__ == "__main__":
    sys.stdout.write(legal_moves_sql())
