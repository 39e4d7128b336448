"""Firecracker as a machine's VMM: its API, its configuration, its jail, and which one is here."""
