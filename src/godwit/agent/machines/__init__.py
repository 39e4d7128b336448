"""The durable lifecycle of a machine."""
