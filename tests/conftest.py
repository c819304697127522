"""What all tests share."""

import pytest

pytest_plugins = ["tests.postgres_fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """More of what takes long, by option."""
    parser.addoption("--kills", default="4", help="kills per end-to-end killing test")
