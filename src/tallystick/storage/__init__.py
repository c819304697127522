"""What is remembered: PostgreSQL behind the `Store` port, its migrations, and the embedded server."""
