"""`/.fly/api` in machines: HTTP of a guest's own processes, served by its host.

`connections` takes them off the control channel, `http` reads and writes them, `answers` decides
who answers: this agent what a machine does to itself, control all the rest.
"""
