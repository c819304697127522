"""Two pages: what this is with a payment to paste, and the API's description for people. Made once, at start.

Self-contained: no script, no font, no other host. The style is inline, allowed by its hash.
"""

import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Any

import msgspec

_STYLE = """\
:root{color-scheme:light dark;--line:#8884;--dim:#777;--mark:#2563eb}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem;text-transform:capitalize}
h3{font-size:1rem;margin:1rem 0 .25rem}
a{color:var(--mark)}
pre{background:#8881;border:1px solid var(--line);border-radius:.4rem;overflow-x:auto;padding:.75rem;
font-size:.85rem}
code{font-family:ui-monospace,monospace;font-size:.9em}
details{border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0;padding:.5rem .75rem}
summary{cursor:pointer}
summary b{color:var(--mark);display:inline-block;min-width:3.2rem}
dl{margin:.25rem 0}dt{font-weight:600;margin-top:.5rem}dd{margin:0 0 0 1rem;color:inherit}
small{color:var(--dim)}
"""
_CODE = re.compile(r"`([^`]+)`")
_STRONG = re.compile(r"\*\*([^*]+)\*\*")


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page and the policy under which it is shown."""

    html: str
    content_security_policy: str


def _page(title: str, body: str) -> Page:
    digest = b64encode(sha256(_STYLE.encode()).digest()).decode()
    html = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
    rules = ["default-src 'none'", f"style-src 'sha256-{digest}'", "base-uri 'none'", "form-action 'none'"]
    return Page(html=html, content_security_policy="; ".join([*rules, "frame-ancestors 'none'"]))


def example_curl(base_url: str) -> str:
    """Return a payment to paste into a shell. Pasted twice, it pays once."""
    return f"""\
curl -sS {base_url}/v1/payments \\
  -H 'Content-Type: application/json' -H 'Prefer: wait=10' -d '{{
  "checkout_id": "checkout-1",
  "buyer_info": {{"buyer_account": "buyer-1", "email": "ann@example.com"}},
  "credit_card_info": {{"token": "tok_visa"}},
  "payment_orders": [{{
    "payment_order_id": "order-1", "seller_account": "DE89370400440532013000",
    "amount": "3.15", "currency": "EUR"
  }}]
}}'"""


def index_page(base_url: str) -> Page:
    """Return the page at `/`."""
    return _page(
        "Tallystick",
        f"""<h1>Tallystick</h1>
<p>Takes payments, and moves each exactly once. This is its API; pay something:</p>
<pre><code>{escape(example_curl(base_url))}</code></pre>
<p>Paste it twice: it pays once. Then look:</p>
<ul>
<li><a href="/v1/payments/order-1">/v1/payments/order-1</a>: the payment order, with its attempts</li>
<li><a href="/v1/checkouts/checkout-1">/v1/checkouts/checkout-1</a>: the checkout</li>
<li><a href="/v1/wallets/DE89370400440532013000">/v1/wallets/DE89370400440532013000</a>: what the seller has</li>
<li><a href="/v1/ledger/accounts/seller_payable:DE89370400440532013000:EUR">/v1/ledger/accounts/…</a>:
what we owe the seller, with every movement</li>
<li><a href="/v1/dead-letters">/v1/dead-letters</a>: what needs a person</li>
</ul>
<p><a href="/docs">All of the API</a> · <a href="/openapi.json">OpenAPI</a> · <a href="/metrics">Metrics</a> ·
<a href="/readyz">Ready?</a></p>""",
    )


def docs_page(document: dict[str, Any]) -> Page:
    """Return the page at `/docs`, from the OpenAPI document."""
    info = document["info"]
    sections: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            sections.setdefault(operation["tags"][0], []).append(_operation(document, path, method, operation))
    parts = [f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"]
    parts += [f"<p>{_inline(paragraph)}</p>" for paragraph in info["description"].split("\n\n")]
    for tag, operations in sections.items():
        parts += [f"<h2>{escape(tag)}</h2>", *operations]
    parts.append("<h2>Bodies</h2>")
    parts += [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    parts.append('<p><a href="/openapi.json">OpenAPI document</a></p>')
    return _page(f"{info['title']} API", "\n".join(parts))


def _inline(text: str) -> str:
    """Render the two marks that our own descriptions use."""
    return _STRONG.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", escape(text)))


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<summary><b>{method.upper()}</b> <code>{escape(path)}</code> {_inline(operation['summary'])}</summary>"
    ]
    if "description" in operation:
        parts.append(f"<p>{_inline(operation['description'])}</p>")
    if "parameters" in operation:
        rows = [
            f"<dt><code>{escape(one['name'])}</code> <small>{one['in']}</small></dt>"
            f"<dd>{_inline(one.get('description', ''))} {_facts(one['schema'])}</dd>"
            for one in operation["parameters"]
        ]
        parts.append(f"<h3>Parameters</h3><dl>{''.join(rows)}</dl>")
    if "requestBody" in operation:
        parts.append(f"<h3>Body</h3><p>{_bodies(operation['requestBody'])}</p>")
    rows = [_answer(document, status, answer) for status, answer in operation["responses"].items()]
    parts.append(f"<h3>Answers</h3><dl>{''.join(rows)}</dl>")
    return f"<details>{''.join(parts)}</details>"


def _answer(document: dict[str, Any], status: str, answer: dict[str, Any]) -> str:
    if "$ref" in answer:
        answer = document["components"]["responses"][answer["$ref"].rsplit("/", 1)[-1]]
    headers = ", ".join(f"<code>{escape(name)}</code>" for name in answer.get("headers", {}))
    extra = f" Headers: {headers}." if headers else ""
    return f"<dt>{escape(status)}</dt><dd>{_inline(answer['description'])}{extra} {_bodies(answer)}</dd>"


def _bodies(owner: dict[str, Any]) -> str:
    return " ".join(
        f"<small>{escape(media_type)}</small> {_type(content['schema'])}"
        for media_type, content in owner["content"].items()
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        f"<dt><code>{escape(member)}</code>{'' if member in required else ' <small>optional</small>'}</dt>"
        f"<dd>{_type(inner)} {_inline(inner.get('description', ''))} {_facts(inner)}</dd>"
        for member, inner in schema.get("properties", {}).items()
    ]
    values = f"<p>{_facts(schema)}</p>" if "enum" in schema else ""
    return (
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"<p>{_inline(schema.get('description', ''))}</p>{values}<dl>{''.join(rows)}</dl></details>"
    )


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(_type(inner) for inner in schema[word])
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_type(schema['items'])}"
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    members = ", ".join(f"<code>{escape(name)}</code>" for name in schema.get("properties", ()))
    return f"object with {members}" if members else escape(str(schema.get("type", "")))


def _facts(schema: dict[str, Any]) -> str:
    """Bounds and choices, in one small line."""
    names = ("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "default", "pattern")
    facts = [f"{name} {schema[name]}" for name in names if name in schema]
    if "enum" in schema:
        facts.append("one of " + ", ".join(str(value) for value in schema["enum"]))
    return f"<small>{escape('; '.join(facts))}</small>" if facts else ""
