"""The NATS client: RPC between control and hosts, and the stream of facts."""
