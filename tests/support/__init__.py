"""What several test modules need: a client that says exactly what it is told, and providers."""
