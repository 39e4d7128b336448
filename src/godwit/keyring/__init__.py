"""The keyring: the one process that can open apps' keys, under a user of its own.

`roots` keeps the root keys on disk, `vault` does what is asked with them, `server` and `client`
are the two ends of its socket. It never touches the network, the bus or a database.
"""
