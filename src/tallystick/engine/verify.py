"""Replaying the ledger's hash chain: what a changed, missing or inserted row looks like."""

from collections.abc import Iterable

from tallystick.engine.ledger import GENESIS_HASH, chain_hash
from tallystick.engine.views import Finding, StoredTransfer

HASH_MISMATCH = "HASH_MISMATCH"
SEQUENCE_GAP = "SEQUENCE_GAP"


class ChainReplay:
    """Reads the ledger's rows in ascending order and names what does not follow."""

    def __init__(self) -> None:
        self.seq = 0
        """The number of the last row that was read."""
        self._hash = GENESIS_HASH

    def read(self, rows: Iterable[StoredTransfer]) -> list[Finding]:
        """Check the next rows. After a finding, go on from what is stored, so that each damage is named once."""
        found = []
        for row in rows:
            if row.seq != self.seq + 1:
                missing = f"rows {self.seq + 1} to {row.seq - 1} are missing"
                found.append(Finding(check=SEQUENCE_GAP, subject=f"transfer {row.seq}", detail=missing))
            elif self._expected(row) != row.hash:
                told = f"{row.cause}: the stored hash is not that of the row and its predecessor"
                found.append(Finding(check=HASH_MISMATCH, subject=f"transfer {row.seq}", detail=told))
            self.seq, self._hash = row.seq, row.hash
        return found

    def _expected(self, row: StoredTransfer) -> bytes:
        return chain_hash(
            self._hash,
            seq=row.seq,
            cause=row.cause,
            kind=row.kind,
            debit_id=row.debit_id,
            credit_id=row.credit_id,
            amount_minor=row.amount_minor,
            currency=row.currency,
            at=row.at,
        )
