"""Scaling: how many machines a group has, where, and how large they are.

Public API calls made by the client, as any client makes them: what to do is decided in `counts`,
`spread` and `plan`, which are pure; `count` and `size` carry it out under the machines' leases.
"""
