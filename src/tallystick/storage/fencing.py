"""Who may write: leases on partitions, each with an epoch that every write checks."""

from tallystick.engine.errors import Fenced, PartitionsTaken
from tallystick.engine.views import Lease
from tallystick.storage.bridge import Connection
from tallystick.storage.queries import queries

_SQL = queries("leases")


async def claim(connection: Connection, *, owner: str, now: int, ttl_us: int, force: bool) -> Lease:
    """Take all partitions with a higher epoch each. Raises PartitionsTaken while another's lease runs."""
    for row in await connection.fetch(_SQL["lock_partitions"]):
        if row["owner"] != owner and row["lease_expires_at"] > now and not force:
            raise PartitionsTaken(row["owner"], row["lease_expires_at"])
    expires_at = now + ttl_us
    rows = await connection.fetch(_SQL["take_partitions"], owner, expires_at)
    return Lease(owner=owner, epochs={row["partition"]: row["epoch"] for row in rows}, expires_at=expires_at)


async def check(connection: Connection, lease: Lease | None) -> None:
    """Hold the lease's partitions until this transaction ends. Raises Fenced when one has a newer owner."""
    if lease is None:
        return
    rows = await connection.fetch(_SQL["share_partitions"], list(lease.epochs))
    if {row["partition"]: row["epoch"] for row in rows} != lease.epochs:
        raise Fenced(f"another engine has taken over the partitions of {lease.owner}")


async def renew(connection: Connection, lease: Lease, *, now: int, ttl_us: int) -> Lease:
    """Prolong the lease. Raises Fenced when a partition has a newer owner."""
    expires_at = now + ttl_us
    held = list(lease.epochs), list(lease.epochs.values())
    status = await connection.execute(_SQL["prolong_lease"], *held, expires_at)
    if status != f"UPDATE {len(lease.epochs)}":
        raise Fenced(f"another engine has taken over the partitions of {lease.owner}")
    return Lease(owner=lease.owner, epochs=lease.epochs, expires_at=expires_at)


async def release(connection: Connection, lease: Lease) -> None:
    """End the lease where it is still ours."""
    await connection.execute(_SQL["end_lease"], list(lease.epochs), list(lease.epochs.values()))
