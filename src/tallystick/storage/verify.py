"""`verify`: replay the hash chain and compare everything with everything. Only reads."""

import msgspec

from tallystick.engine.ports import Store
from tallystick.engine.verify import ChainReplay
from tallystick.engine.views import Finding

PAGE_ROWS = 5_000
FINDINGS_MAX = 100


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was replayed, and what is wrong; no findings is what one hopes for."""

    transfers: int
    """Ledger rows replayed."""
    findings: tuple[Finding, ...]


async def verify(store: Store, *, limit: int = FINDINGS_MAX) -> VerifyReport:
    """Check the whole store; return at most `limit` findings per check. Raises StoreUnavailable."""
    replay = ChainReplay()
    broken: list[Finding] = []
    transfers = 0
    while rows := await store.transfers_after(seq=replay.seq, limit=PAGE_ROWS):
        broken += replay.read(rows)
        transfers += len(rows)
        if len(broken) >= limit:
            break
    compared = await store.findings(limit=limit)
    return VerifyReport(transfers=transfers, findings=(*broken[:limit], *compared))
