"""Goal: one seed and one version give one trace, in other processes, from the tape alone, and over PostgreSQL."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.postgres_fixtures import PostgresForTests

from tallystick.cli.sim_stores import PostgresWorlds
from tallystick.engine.ports import Store
from tallystick.engine.views import Finding
from tallystick.sim.memory_store import MemoryStore
from tallystick.sim.options import RunOptions
from tallystick.sim.real_store import compare, mirrored
from tallystick.sim.tape import Tape
from tallystick.sim.world import World


def campaign_in_a_process(folder: Path, hash_seed: str) -> dict[str, Any]:
    report = folder / f"{hash_seed}.json"
    command = [sys.executable, "-m", "tallystick", "sim", "run", "--seeds", "6", "--orders", "8"]
    subprocess.run(
        [*command, "--json", str(report), "--out", str(folder)],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def test_other_processes_with_other_hash_seeds_give_the_same_traces(tmp_path: Path) -> None:
    hashes = {campaign_in_a_process(tmp_path, seed)["trace_hash"] for seed in ("0", "1", "4711")}
    assert len(hashes) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_run_is_repeated_from_its_tape_alone(seed: int) -> None:
    world = World(RunOptions(seed=seed))
    first = world.run()
    replayed = World(RunOptions(seed=seed), Tape.replay(world.record()))
    assert replayed.run() == first
    assert replayed.trace.lines() == world.trace.lines()


def test_other_seeds_give_other_traces() -> None:
    assert len({World(RunOptions(seed=seed, orders=4)).run().trace_digest for seed in range(5)}) == 5


# --- over PostgreSQL -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_postgresql_gives_the_very_trace_of_the_memory_store(postgres: PostgresForTests, seed: int) -> None:
    options = RunOptions(seed=seed, orders=8)
    in_memory = World(options)
    expected = in_memory.run()
    real = PostgresWorlds(postgres.socket_folder)(options, None)
    assert real.run() == expected
    assert real.trace.lines() == in_memory.trace.lines()


class Forgetful(MemoryStore):
    """A store that finds something wrong where there is nothing, and knows no checkouts."""

    async def findings(self, *, limit: int) -> list[Finding]:
        return [Finding(check="wallets", subject="x", detail="made up")]


async def test_two_stores_that_differ_are_noticed() -> None:
    accused: list[str] = []

    def accuse(subject: str, detail: str) -> None:
        accused.append(subject)

    await compare(Forgetful(), MemoryStore(), accuse)
    assert accused == ["findings"]
    store: Store = mirrored(Forgetful(), MemoryStore(), accuse)
    assert await store.in_flight() == []
    assert [one.detail for one in await store.findings(limit=1)] == ["made up"]
    assert accused == ["findings", "findings"]


async def test_a_refusal_of_one_store_alone_is_noticed() -> None:
    accused: list[str] = []
    real, memory = MemoryStore(), MemoryStore()
    await real.claim_partitions(owner="one", now=0, ttl_us=10, force=False)
    await memory.claim_partitions(owner="two", now=0, ttl_us=10, force=False)
    store = mirrored(MemoryStore(real.tables), memory, lambda subject, _: accused.append(subject))
    with pytest.raises(Exception, match="another engine"):
        await store.claim_partitions(owner="two", now=1, ttl_us=10, force=False)
    assert accused == ["claim_partitions"]
