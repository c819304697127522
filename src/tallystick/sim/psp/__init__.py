"""The simulated payment service provider: one model, an in-process face and an HTTP face."""
