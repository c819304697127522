"""What could go wrong: a deterministic world around the real engine, and an auditor who watches the money."""
