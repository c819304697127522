-- name: lock_partitions
select
    partition,
    epoch,
    owner,
    lease_expires_at
from partitions
order by partition
for update;

-- name: take_partitions
update partitions
set
    epoch = epoch + 1,
    owner = $1,
    lease_expires_at = $2
returning partition, epoch;

-- name: share_partitions
-- The fence: a claim waits for this transaction, or this transaction sees the claim. KEY SHARE, which a claim's
-- FOR UPDATE excludes, but which a renewal passes: busy writers would keep it waiting for ever.
select
    partition,
    epoch
from partitions
where partition = any($1::smallint[])
order by partition
for key share;

-- name: prolong_lease
update partitions as stored
set lease_expires_at = $3
from unnest($1::smallint[], $2::bigint[]) as held (partition, epoch)
where stored.partition = held.partition and stored.epoch = held.epoch;

-- name: end_lease
update partitions as stored
set lease_expires_at = 0
from unnest($1::smallint[], $2::bigint[]) as held (partition, epoch)
where stored.partition = held.partition and stored.epoch = held.epoch;
