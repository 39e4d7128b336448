"""Typed HTTP client of the public API; the only way the CLI reaches the platform."""
