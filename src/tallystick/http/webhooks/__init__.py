"""Webhooks: out to merchants."""
