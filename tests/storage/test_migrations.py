"""Goal: any database of ours is brought to this version, once, and never by a program that is too old for it."""

from pathlib import Path

import pytest
from tests.postgres_fixtures import PostgresForTests

from tallystick.engine.errors import SetupError
from tallystick.storage import migrating
from tallystick.storage.bridge import Connection, open_bridge
from tallystick.storage.legal_moves import legal_moves_sql
from tallystick.storage.postgres import open_store_at

MIGRATIONS = Path(migrating.__file__).parent / "migrations"


def test_the_database_enforces_the_moves_of_the_transition_table() -> None:
    """The newest migration that makes the trigger holds what the generator prints now."""
    trigger = "create trigger payment_orders_moves_legally"
    newest = max(path for path in MIGRATIONS.glob("*.sql") if trigger in path.read_text())
    assert legal_moves_sql() in newest.read_text()


def test_migrations_are_forward_only_and_numbered_without_a_gap() -> None:
    names = sorted(path.name for path in MIGRATIONS.glob("*.sql"))
    assert [name.partition("_")[0] for name in names] == [f"{number:04}" for number in range(1, len(names) + 1)]
    for name in names:
        _, _, down = (MIGRATIONS / name).read_text().partition("-- migrate:down")
        assert all(line.startswith("--") for line in down.splitlines() if line.strip()), name


async def _tables(connection: Connection) -> list[str]:
    query = "select table_name from information_schema.tables where table_schema = 'public' order by 1"
    return [row["table_name"] for row in await connection.fetch(query)]


async def test_an_empty_database_is_set_up_and_a_current_one_left_alone(
    postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with postgres.fresh_database(template="template0") as url:
        async with open_store_at(url) as store:
            assert await store.findings(limit=1) == []
        async with open_bridge(url) as bridge:
            assert "payment_orders" in await bridge.read(_tables)

        async def called(_: str) -> None:
            raise AssertionError

        monkeypatch.setattr(migrating, "run_dbmate", called)
        async with open_store_at(url) as store:
            assert await store.findings(limit=1) == []


async def test_two_engines_that_start_at_once_set_up_one_database(postgres: PostgresForTests) -> None:
    import trio

    async with postgres.fresh_database(template="template0") as url:

        async def start() -> None:
            async with open_store_at(url) as store:
                assert await store.findings(limit=1) == []

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            nursery.start_soon(start)


async def test_a_newer_database_is_left_alone(database_url: str) -> None:
    async with open_bridge(database_url) as bridge:
        await bridge.write(lambda c: c.execute("insert into schema_migrations (version) values ('9999')"))
    with pytest.raises(SetupError, match="newer Tallystick"):
        async with open_store_at(database_url):
            pass


async def test_a_wrong_address_is_one_clear_line(postgres: PostgresForTests) -> None:
    with pytest.raises(SetupError, match="does not exist"):
        async with open_store_at(postgres.url("no_such_database")):
            pass


@pytest.mark.parametrize(
    ("ours", "for_dbmate"),
    [
        (
            "postgresql://u@/d?host=/tmp/x&port=5432",
            "postgresql://u@/d?port=5432&socket=%2Ftmp%2Fx&sslmode=disable",
        ),
        (
            "postgresql://u:p@db.example:5433/d?sslmode=require",
            "postgresql://u:p@db.example:5433/d?sslmode=require",
        ),
    ],
)
def test_addresses_are_translated(ours: str, for_dbmate: str) -> None:
    assert migrating._for_dbmate(ours) == for_dbmate
