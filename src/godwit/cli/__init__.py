"""The user's tool: `godwit`.

`program.run` is the whole program; `registry.ENTRIES` lists the command modules, each loaded
only when it is asked for. Commands get a `session.Session` and reach the platform through
`godwit.client` alone. The voice: data on stdout, talk on stderr, hints after a blank line.
"""
