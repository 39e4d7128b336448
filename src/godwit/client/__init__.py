"""Typed HTTP client of the public API; the only way the CLI reaches the platform.

`api.Api` holds one object per resource, each in the file of that name. Refusals are
`failures.ApiFailure`. Nothing here knows of hosts, the bus or the database.
"""
