"""What speaks HTTP: the API (JSON in), pages (people), webhooks (PSPs in), psp (PSPs out)."""

from tallystick.http.api.app import create_app
from tallystick.http.api.settings import ApiSettings

__all__ = ["ApiSettings", "create_app"]
