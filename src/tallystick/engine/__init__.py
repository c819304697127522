"""What is true: pure decisions about payments. No I/O, no clock, no randomness, no trio."""
