"""Adapters are found by name, and a wrong set-up is one clear line that shows no secret."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from tallystick.engine.errors import SetupError
from tallystick.http.psp import registry
from tallystick.http.psp.registry import GROUP, PspSettings, load_adapter
from tallystick.http.psp.simulated import open_psp


class Clock:
    def now(self) -> int:
        return 0


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("simulated", "tallystick.http.psp.simulated:open_psp", GROUP),
        EntryPoint("gone", "tallystick.http.psp.gone:open_psp", GROUP),
        EntryPoint("wrong", "tallystick.http.psp.registry:GROUP", GROUP),
        EntryPoint("torn", "one:open_psp", GROUP),
        EntryPoint("torn", "two:open_psp", GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda **query: EntryPoints(points).select(**query))


@pytest.mark.usefixtures("installed")
def test_an_adapter_is_loaded_by_name() -> None:
    assert load_adapter("simulated") is open_psp


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("acme", "installed: gone, simulated, torn, wrong"),
        ("gone", "cannot be loaded"),
        ("wrong", "not a function"),
        ("torn", "two packages"),
    ],
)
def test_what_cannot_be_loaded_says_why(name: str, says: str) -> None:
    with pytest.raises(SetupError, match=says):
        load_adapter(name)


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "ftp://psp.example"},
        {"base_url": "https://"},
        {"base_url": "https://user:hunter2@psp.example"},
        {"base_url": "https://psp.example:hunter2"},
        {"base_url": "https://psp.example/?key=hunter2"},
        {"connections_max": "hunter2"},
        {"sceret": "hunter2"},
    ],
)
async def test_wrong_options_are_refused_without_showing_their_values(options: dict[str, str]) -> None:
    with pytest.raises(SetupError) as caught:
        async with open_psp(PspSettings(name="simulated", clock=Clock(), options=options)):
            pass
    assert "hunter2" not in str(caught.value)
