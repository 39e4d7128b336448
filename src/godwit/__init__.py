"""Godwit: a global application platform that runs on your own servers."""

__version__ = "0.1.0"
