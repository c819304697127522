"""What schemathesis must know beyond the schema: how to make values that no schema can describe."""

import json
from typing import Any

import schemathesis
from hypothesis import strategies as st

from tallystick.engine.card_numbers import holds_card_number

schemathesis.openapi.format("iban", st.sampled_from(["DE89370400440532013000", "GB82WEST12345698765432"]))
schemathesis.openapi.format("ip", st.ip_addresses().map(str))
# Without decimals, so that the number is right for every currency.
schemathesis.openapi.format("decimal-amount", st.integers(1, 10**6).map(str))
schemathesis.openapi.format("idempotency-key", st.from_regex(r"\A[A-Za-z0-9-]{1,40}\Z"))
# Positions that the door under test has: below entry 8, and after (1, "x").
schemathesis.openapi.format("ledger-cursor", st.just("OA"))
schemathesis.openapi.format("dead-letter-cursor", st.just("WzEsIngiXQ"))


@schemathesis.hook
def filter_body(context: Any, body: Any) -> bool:
    """Leave out numbers and texts that happen to be card numbers: no schema can forbid them."""
    return not holds_card_number(json.dumps(body, default=str))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Give each order of a checkout an id of its own: a schema cannot ask for that."""
    orders = case.body.get("payment_orders") if isinstance(case.body, dict) else None
    if not isinstance(orders, list):
        return
    seen: set[str] = set()
    for index, order in enumerate(orders):
        id_ = order.get("payment_order_id") if isinstance(order, dict) else None
        if isinstance(id_, str) and id_ in seen:
            order["payment_order_id"] = f"{id_[:200]}-{index}"
        elif isinstance(id_, str):
            seen.add(id_)
