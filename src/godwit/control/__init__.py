"""Decisions about organizations, apps, releases and placement. No HTTP, no SQL."""
