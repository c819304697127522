"""How one request's connection is treated, where quart-trio's way does not do."""

from typing import Any

import trio
from hypercorn.typing import ASGISendCallable
from quart.utils import encode_headers
from quart.wrappers.response import DataBody, Response
from quart_trio.asgi import TrioASGIHTTPConnection

SEND_S = 10.0
"""How long a client may take to receive an answer; the longest is a page of 200 rows."""


class ApiConnection(TrioASGIHTTPConnection):
    """Sends an answer to its end, in two messages.

    Hypercorn reports the end of the exchange as a disconnect, upon which quart-trio cancels the handler that is
    still inside the last `send`: a connection that was to be closed then stays open until it times out. Hence the
    shield. The body goes with the mark of its end, which saves a turn through hypercorn.
    """

    async def _send_response(self, send: ASGISendCallable, response: Any) -> None:  # noqa: ANN401  (two frameworks')
        with trio.move_on_after(SEND_S, shield=True):
            if not (isinstance(response, Response) and isinstance(response.response, DataBody)):
                await super()._send_response(send, response)
                return
            headers = encode_headers(response.headers)
            await send(
                {
                    "type": "http.response.start",
                    "status": response.status_code,
                    "headers": headers,
                    "trailers": False,
                }
            )
            await send({"type": "http.response.body", "body": response.response.data, "more_body": False})
