"""Loading PSP adapters: plug-ins under the entry point group `tallystick.psps`.

An adapter is a function from `PspSettings` to an async context manager that gives a `Psp`:

    [project.entry-points."tallystick.psps"]
    acme = "acme_tallystick:open_psp"
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from importlib.metadata import entry_points
from typing import TypeVar

import msgspec

from tallystick.engine.errors import SetupError
from tallystick.engine.ports import Clock, Psp

S = TypeVar("S", bound=msgspec.Struct)

GROUP = "tallystick.psps"


class PspSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter is opened with."""

    name: str
    """What this PSP is called in the ledger; one adapter may serve several accounts under several names."""
    clock: Clock
    options: Mapping[str, str] = {}
    """The adapter's own settings, as strings; the adapter checks them. May hold secrets: never logged."""


PspFactory = Callable[[PspSettings], AbstractAsyncContextManager[Psp]]


def adapters() -> list[str]:
    """Return the names of the adapters that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_adapter(adapter: str) -> PspFactory:
    """Return the factory of an installed adapter. Raises SetupError when it is not there or does not load."""
    points = list(entry_points(group=GROUP, name=adapter))
    if not points:
        known = ", ".join(adapters()) or "none"
        raise SetupError(f"there is no PSP adapter {adapter!r} (installed: {known})")
    if len({point.value for point in points}) > 1:
        # Guessing which one gets the money would be the worst way to find out.
        raise SetupError(f"two packages bring a PSP adapter {adapter!r}: {', '.join(p.value for p in points)}")
    try:
        factory = points[0].load()
    except (ImportError, AttributeError) as error:
        raise SetupError(f"the PSP adapter {adapter!r} cannot be loaded: {error}") from error
    if not callable(factory):
        raise SetupError(f"the PSP adapter {adapter!r} is not a function: {points[0].value}")
    return factory  # type: ignore[no-any-return]  # a plug-in's type is its own promise


def options_of(settings: PspSettings, kind: type[S]) -> S:
    """Return an adapter's options as its own struct. Raises SetupError, which names the option, not its value."""
    try:
        return msgspec.convert(dict(settings.options), kind, strict=False)
    except msgspec.ValidationError as error:
        raise SetupError(f"the options of the PSP {settings.name!r} are wrong: {error}") from None
