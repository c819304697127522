"""Kill -9 at random moments under load, of any part: nothing is lost and nothing doubled."""

import random
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from tests.support.house import House, checkout_of, open_house

SELLERS = ("DE89370400440532013000", "GB29NWBK60161331926819", "FR1420041010050500013M02606")
TOKENS = ("tok_visa",) * 6 + ("tok_declined", "tok_error_500_after", "tok_error_500_before")
CLIENTS = 12
SETTLED_WITHIN_S = 120


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How many kills; more with --kills N."""
    return int(request.config.getoption("--kills"))


async def trade(house: House, chance: random.Random, acknowledged: dict[str, str], stop: trio.Event) -> None:
    """One client: posts checkouts until told to stop, some twice at once, and remembers what was acknowledged."""
    while not stop.is_set():
        number = "".join(chance.choices("abcdefghij", k=16))
        token = chance.choice(TOKENS)
        parts = [
            (seller, f"{chance.randrange(1, 5000) / 100:.2f}") for seller in SELLERS[: chance.randrange(1, 4)]
        ]
        body = checkout_of(number, *parts, token=token)
        async with trio.open_nursery() as clicks:
            for _ in range(chance.choice((1, 1, 2))):
                clicks.start_soon(house.pay_until_acknowledged, body)
        acknowledged[body["checkout_id"]] = token


async def kill_something(house: House, chance: random.Random) -> str:
    """Kill one part at a random moment of the load, and bring it back."""
    await trio.sleep(chance.uniform(0.2, 1.2))
    victim = chance.choice(("engine", "engine", "postgres", "psp"))
    if victim == "engine":
        await house.kill_engine()
        await house.start_engine()
    elif victim == "psp":
        await house.kill_psp()
        await trio.sleep(chance.uniform(0, 0.5))
        await house.start_psp()
    else:
        house.kill_postgres()
    return victim


async def settled(house: House, checkout_ids: set[str]) -> dict[str, str]:
    """Wait until every checkout is done; return each order's public status."""
    statuses: dict[str, str] = {}
    with trio.fail_after(SETTLED_WITHIN_S):
        for checkout_id in sorted(checkout_ids):
            while True:
                checkout = await house.checkout(checkout_id)
                if checkout is not None and checkout["is_payment_done"]:
                    break
                await trio.sleep(0.2)
            statuses |= {
                order["payment_order_id"]: order["payment_order_status"] for order in checkout["payment_orders"]
            }
    return statuses


async def audit(house: House, statuses: dict[str, str]) -> None:
    """Compare the PSP's hidden ledger with our orders, our ledger and the wallets, to the cent."""
    captures = await house.psp_captures()
    charges = Counter(capture["merchant_reference"] for capture in captures)
    assert [order for order, count in charges.items() if count > 1] == [], "charged twice"
    assert {order for order, status in statuses.items() if status == "SUCCESS"} == set(charges)
    truth = sum((Decimal(capture["amount"]) for capture in captures), Decimal(0))
    wallets = Decimal(0)
    for seller in SELLERS:
        response = await house.client.get(f"{house.url}/v1/wallets/{seller}")
        assert response.status_code == 200, response.text
        wallets += sum((Decimal(each["available"]) for each in response.json()["wallets"]), Decimal(0))
    assert wallets == truth
    account = (await house.client.get(f"{house.url}/v1/ledger/accounts/psp_receivable:simulated:EUR")).json()
    assert Decimal(account["debits"]) == truth
    verified = await house.command("verify")
    assert verified.returncode == 0, verified.stdout.decode()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
async def test_killing_parts_under_load_loses_and_doubles_nothing(tmp_path: Path, rounds: int, seed: int) -> None:
    """After any number of kills every acknowledged payment exists, and all books agree with the PSP."""
    chance = random.Random(seed)
    acknowledged: dict[str, str] = {}
    stop = trio.Event()
    async with open_house(tmp_path) as house:
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(trade, house, random.Random(chance.getrandbits(64)), acknowledged, stop)
            victims = [await kill_something(house, chance) for _ in range(rounds)]
            await trio.sleep(0.5)
            stop.set()
        assert len(acknowledged) > 10 * rounds, f"too little load to mean anything: {victims}"
        statuses = await settled(house, set(acknowledged))
        assert {"SUCCESS", "FAILED"} == set(statuses.values())
        await audit(house, statuses)
        assert "Traceback" not in house.log()
