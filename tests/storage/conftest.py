"""Stores for the contract suite: each implementation behind the same fixture."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from tests.postgres_fixtures import PostgresForTests

from tallystick.engine.ports import Store
from tallystick.sim.memory_store import MemoryStore
from tallystick.sim.memory_tables import Tables
from tallystick.storage.postgres import open_store_at

MakeStore = Callable[[], Awaitable[Store]]


@pytest.fixture(params=["postgres", "memory"])
async def make_store(request: pytest.FixtureRequest, postgres: PostgresForTests) -> AsyncIterator[MakeStore]:
    """Return a factory of stores over one and the same database: each call is one more engine's session."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            tables = Tables()

            async def session() -> Store:
                return MemoryStore(tables)

            yield session
        else:
            url = await stack.enter_async_context(postgres.fresh_database())

            async def connect() -> Store:
                return await stack.enter_async_context(open_store_at(url))

            yield connect
