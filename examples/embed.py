"""Tallystick inside another trio program: pay one checkout, and say what became of it."""

import trio

import tallystick
from tallystick.sim.psp.in_process import InProcessPsp


async def main() -> None:
    """Run an engine on an embedded database in .tallystick/, with the simulated PSP in this process."""
    async with tallystick.open_engine(psps=[InProcessPsp()]) as engine:
        event = tallystick.PaymentEvent(
            checkout_id="embedded-1",
            buyer_info={"buyer_account": "ada"},
            credit_card_info="tok_visa",
            payment_orders=[
                tallystick.PaymentOrderRequest(
                    payment_order_id="embedded-1-a",
                    seller_account="DE89370400440532013000",
                    amount="3.15",
                    currency="EUR",
                )
            ],
        )
        receipt = await engine.submit(event)  # durable from here on
        checkout = await engine.wait(receipt.checkout_id, timeout_s=10)
        print(checkout.checkout_id, [str(order.state) for order in checkout.orders])


if __name__ == "__main__":
    trio.run(main)
