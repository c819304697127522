"""Tallystick: a payment backend that moves each payment exactly once, and the simulator that shows it.

async with tallystick.open_engine(psps=[...]) as engine:
    receipt = await engine.submit(event)
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tallystick.actors.engine import Engine
    from tallystick.actors.settings import EngineSettings, GatewaySettings
    from tallystick.bootstrap import open_engine
    from tallystick.engine.doors import CardInfo, PaymentEvent, PaymentOrderRequest, Receipt
    from tallystick.engine.money import Money

__version__ = version("tallystick")

# Loaded when asked for: who imports one part (the simulator, say) does not pay for all.
_HOMES = {
    "open_engine": "tallystick.bootstrap",
    "Engine": "tallystick.actors.engine",
    "EngineSettings": "tallystick.actors.settings",
    "GatewaySettings": "tallystick.actors.settings",
    "CardInfo": "tallystick.engine.doors",
    "PaymentEvent": "tallystick.engine.doors",
    "PaymentOrderRequest": "tallystick.engine.doors",
    "Receipt": "tallystick.engine.doors",
    "Money": "tallystick.engine.money",
}

__all__ = [
    "CardInfo",
    "Engine",
    "EngineSettings",
    "GatewaySettings",
    "Money",
    "PaymentEvent",
    "PaymentOrderRequest",
    "Receipt",
    "__version__",
    "open_engine",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (whatever the part is)
    if name not in _HOMES:
        raise AttributeError(f"module 'tallystick' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
