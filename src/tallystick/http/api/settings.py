"""The limits of the HTTP API."""

import msgspec


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and defaults; each is stated in the API's documentation, too."""

    base_url: str = "http://127.0.0.1:8080"
    """Where clients reach us; stands in the examples to paste."""
    body_bytes_max: int = 1_048_576
    """999 orders with the longest ids fit three times over."""
    body_timeout_s: float = 10.0
    """How long a client may take to send a body."""
    discard_s: float = 1.0
    """How long the rest of a refused body is read and thrown away, so that the client sees the answer."""
    wait_s_max: int = 30
    """The longest wait that `Prefer: wait` gets; below the idle time-outs of common proxies (60 s)."""
    page_rows_default: int = 50
    page_rows_max: int = 200
    access_log: bool = True
