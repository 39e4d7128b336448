"""Fakes and helpers for tests; nothing in the package imports it."""
