"""The simulated PSP's hosted page, self-contained HTML: what is to be paid, and what the buyer does about it."""

from base64 import b64encode
from hashlib import sha256
from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from tallystick.sim.psp.model import Payment, Status
from tallystick.sim.psp.units import decimal

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1917;--paper:#fafaf9;--line:#d6d3d1;--go:#166534;--stop:#991b1b}
@media(prefers-color-scheme:dark){:root{--ink:#f5f5f4;--paper:#1c1917;--line:#57534e;--go:#15803d;--stop:#b91c1c}}
*{box-sizing:border-box}
body{margin:0;font:1.0625rem/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
main{max-width:26rem;margin:0 auto;padding:1.5rem 1.25rem}
h1{font-size:1.125rem;margin:0 0 1rem}
.amount{font-size:2.25rem;font-weight:700;margin:0;font-variant-numeric:tabular-nums}
dl{margin:1rem 0 1.5rem;padding:1rem 0;border-top:1px solid var(--line);border-bottom:1px solid var(--line)}
dt{font-size:.875rem;opacity:.75}
dd{margin:0;overflow-wrap:anywhere}
button{display:block;width:100%;min-height:3rem;margin:.75rem 0;border:1px solid transparent;border-radius:.5rem;
font:inherit;font-weight:600;color:#fff;cursor:pointer}
button:focus-visible{outline:3px solid #2563eb;outline-offset:2px}
.pay{background:var(--go)}
.decline{background:var(--stop)}
.abandon{background:transparent;color:var(--ink);border-color:var(--line)}
.note{font-size:.875rem;opacity:.75}
"""
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()

_SAID = {
    Status.CHARGED: "Paid. Thank you.",
    Status.DECLINED: "The payment was declined. Nothing was charged.",
    Status.VOIDED: "This page is closed. Nothing was charged, and it cannot be paid any more.",
}

RESULTS = {Status.CHARGED: "success", Status.DECLINED: "declined", Status.VOIDED: "expired"}
"""What `payResult` says of a decided payment; an undecided one was abandoned."""


def page_html(payment: Payment) -> str:
    """Return the page for a payment as it stands."""
    title = "Confirm your payment" if payment.token is not None else "Pay"
    said = _SAID.get(payment.status)
    body = _buttons(payment) if said is None else f'<p role="status">{said}</p>'
    amount = escape(f"{decimal(payment.amount, payment.currency)} {payment.currency}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title} · Simulated PSP</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{title}</h1><p class="amount">{amount}</p>'
        f"<dl><dt>Order</dt><dd>{escape(payment.merchant_reference)}</dd></dl>{body}"
        '<p class="note">Simulated payment provider. No real money moves, and no card is asked for.</p>'
        "</main></body></html>"
    )


def missing_html() -> str:
    """Return the page for an address that was never given out."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Not found · Simulated PSP</title><style>{_STYLE}</style></head><body><main>"
        "<h1>There is no such page</h1><p>Go back to the shop and start the payment again.</p>"
        "</main></body></html>"
    )


def page_headers(payment: Payment | None) -> dict[str, str]:
    """Return the headers of a page: nothing may be loaded, framed, cached, or told where the buyer came from."""
    back = "" if payment is None or payment.return_url is None else f" {_origin(payment.return_url)}"
    # A redirect after a form is held against form-action, too, so the shop's origin has to be in it.
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'{back}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def way_back(payment: Payment) -> str | None:
    """Return where the buyer goes from here, with `tokenID` and `payResult` added; None to stay on the page."""
    if payment.return_url is None:
        return None
    parts = urlsplit(payment.return_url)
    added = {"tokenID": payment.page or "", "payResult": RESULTS.get(payment.status, "abandoned")}
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in added]
    return urlunsplit(parts._replace(query=urlencode([*query, *added.items()])))


def _buttons(payment: Payment) -> str:
    pay = "Confirm" if payment.token is not None else "Pay"
    rows = (("pay", pay), ("decline", "Decline"), ("abandon", "Go back without paying"))
    return "".join(
        f'<form method="post" action="{escape(payment.page or "")}/{action}">'
        f'<button class="{action}">{label}</button></form>'
        for action, label in rows
        if action != "abandon" or payment.return_url is not None
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
