"""What speaks HTTP to payment service providers: the plug-in loader, and the adapters."""
