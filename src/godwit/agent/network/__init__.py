"""Taps, addresses and nftables of one host."""
