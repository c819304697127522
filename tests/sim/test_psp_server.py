"""The HTTP face on its own: its journal failing, its keys and addresses, and the page as a buyer gets it."""

import os
from pathlib import Path

import pytest

from tallystick.sim.psp.journal import open_journal
from tallystick.sim.psp.model import PageAction, Payment, SimulatedPsp
from tallystick.sim.psp.page import page_headers, page_html, way_back
from tallystick.sim.psp.server import DEFAULT_SECRET, create_psp_app
from tallystick.sim.psp.wire import is_return_url, unquoted

NOW = 1_700_000_000_000_000


class Clock:
    def now(self) -> int:
        return NOW


class Entropy:
    def below(self, bound: int) -> int:
        return 0

    def token(self) -> str:
        return "unguessable"


def opened(reference: str = "order-1", return_url: str | None = None) -> Payment:
    psp = SimulatedPsp()
    page = psp.register(
        key="k",
        merchant_reference=reference,
        amount=1230,
        currency="KWD",
        now=NOW,
        draw="unguessable",
        return_url=return_url,
    )
    assert isinstance(page, Payment)
    return page


async def test_what_cannot_be_recorded_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync a charge gets a 500, never a 200, and so does every question about it."""
    model = SimulatedPsp()
    headers = {"Authorization": f"Bearer {DEFAULT_SECRET}", "Idempotency-Key": "k"}
    body = {"amount": 315, "currency": "EUR", "merchant_reference": "o", "source": "tok_visa"}

    def fails(descriptor: int) -> None:
        raise OSError(5, os.strerror(5))

    with open_journal(tmp_path / "psp.jsonl", model) as journal:
        app = create_psp_app(model, clock=Clock(), entropy=Entropy(), journal=journal)
        client = app.test_client()
        assert (await client.get("/healthz")).status_code == 200
        monkeypatch.setattr("tallystick.sim.psp.journal._sync_file", fails)
        for _ in range(2):
            assert (await client.post("/v1/charges", json=body, headers=headers)).status_code == 500
        asked = await client.get("/v1/charges?merchant_reference=o", headers=headers)
        assert asked.status_code == 500
        assert (await client.get("/healthz")).status_code == 503


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("bare", "bare"),
        ('"quoted"', "quoted"),
        (' "spaced" ', "spaced"),
        (r'"a\"b\\c"', r'a"b\c'),
        (r"bare\"", r"bare\""),
        ("x" * 255, "x" * 255),
        ("x" * 256, None),
        ("", None),
        ('""', None),
        ('"', None),
        ('"open', None),
        ('"a"b"', None),
        (r'"a\"', None),
        (r'"a\b"', None),
        ("é", None),
        ("a\tb", None),
    ],
)
def test_keys_come_bare_or_quoted(header: str, key: str | None) -> None:
    assert unquoted(header) == key


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://shop.example/done?cart=7", True),
        ("http://127.0.0.1:8080/", True),
        ("http://[::1]:8080/", True),
        ("javascript:alert(1)", False),
        ("//shop.example", False),
        ("/done", False),
        ("https://", False),
        ("https://user:pass@shop.example", False),
        ("https://shop.example:port/", False),
        ("https://shop.example/;script-src 'unsafe-inline'", False),
        ("https://shop.example/\r\nSet-Cookie: a=b", False),
        ("http://[", False),
    ],
)
def test_buyers_are_sent_back_to_plain_addresses_only(url: str, *, good: bool) -> None:
    assert is_return_url(url) is good


def test_the_way_back_replaces_what_it_adds() -> None:
    page = opened(return_url="https://shop.example/done?cart=7&payResult=success&empty=#top")
    assert way_back(page) == (
        "https://shop.example/done?cart=7&empty=&tokenID=unguessable&payResult=abandoned#top"
    )
    assert way_back(opened()) is None


def test_the_page_shows_the_amount_and_no_markup_of_others() -> None:
    html = page_html(opened(reference="<script>alert(1)</script>"))
    assert "1.230 KWD" in html
    assert "<script" not in html
    assert 'name="viewport"' in html
    assert "<input" not in html
    assert "frame-ancestors 'none'" in page_headers(None)["Content-Security-Policy"]


def test_a_decided_page_has_no_buttons() -> None:
    psp = SimulatedPsp()
    psp.register(key="k", merchant_reference="o", amount=1, currency="EUR", now=NOW, draw="p")
    paid = psp.act("p", PageAction.PAY, now=NOW)
    assert paid is not None
    assert "<button" not in page_html(paid)
    assert "Paid" in page_html(paid)
