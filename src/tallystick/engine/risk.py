"""The built-in risk check: limits on the amount of one payment order. A third party's is another `RiskCheck`."""

from collections.abc import Mapping

from tallystick.engine.events import RiskAccepted, RiskFlagged, RiskRefused
from tallystick.engine.money import Money
from tallystick.engine.order import Order


class AmountLimits:
    """Refuses what is above a currency's limit, and accepts the rest. No limit for a currency means none."""

    def __init__(self, refuse_above: Mapping[str, Money] | None = None) -> None:
        self._refuse_above = dict(refuse_above or {})

    async def assess(self, order: Order) -> RiskAccepted | RiskFlagged | RiskRefused:
        """Return the verdict on one order."""
        limit = self._refuse_above.get(order.amount.currency)
        if limit is not None and limit < order.amount:
            return RiskRefused(reasons=(f"above the limit of {limit}",))
        return RiskAccepted()
