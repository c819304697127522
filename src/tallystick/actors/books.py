"""The ledger actor and the wallet actor: each the single writer of its book.

They are told a business fact (this order was captured), derive what it posts by the rules in `engine.ledger`,
and answer after the commit. A fact posted twice is the same as once, by its cause.
"""

from collections.abc import Awaitable, Callable

from tallystick.actors.mailbox import Delivery
from tallystick.actors.metrics import Metrics
from tallystick.actors.settings import EngineSettings
from tallystick.actors.writer import BatchWriter
from tallystick.engine.intents import CreditWallet, Posted, PostTransfer
from tallystick.engine.ledger import capture, wallet_credit
from tallystick.engine.order import Order
from tallystick.engine.ports import Store


class Books:
    """The two books of an engine. Their writers are run by the supervisor."""

    def __init__(
        self,
        store: Store,
        *,
        settings: EngineSettings,
        metrics: Metrics,
        delivery: Delivery | None,
        on_credited: Callable[[], None],
    ) -> None:
        """`on_credited` is told after each commit to the wallet, the later of the two books, which ends orders."""
        self.ledger: BatchWriter[PostTransfer, Posted] = BatchWriter(
            "ledger",
            store.post,
            metrics=metrics,
            capacity=settings.writer_queue_max,
            batch_max=settings.batch_rows_max,
            delivery=delivery,
        )
        self.wallet: BatchWriter[CreditWallet, Posted] = BatchWriter(
            "wallet",
            store.credit,
            metrics=metrics,
            capacity=settings.writer_queue_max,
            batch_max=settings.batch_rows_max,
            delivery=delivery,
            on_written=lambda _, __: on_credited(),
        )

    @property
    def runs(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the actors by name, for supervision."""
        return {"ledger": self.ledger.run, "wallet": self.wallet.run}

    async def post_capture(self, order: Order, *, at: int) -> Posted:
        """Post a captured order to the ledger, and set its `ledger_updated` in the same commit."""
        return await self.ledger.ask(PostTransfer(transfer=capture(order, at=at)))

    async def credit_capture(self, order: Order, *, at: int) -> Posted:
        """Credit a captured order to the seller's wallet, and set its `wallet_updated` in the same commit."""
        return await self.wallet.ask(CreditWallet(entry=wallet_credit(order, at=at)))
