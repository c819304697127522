"""The HTTP API: JSON in, JSON and problem+json out."""
