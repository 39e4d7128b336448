"""The heart of the agent: what a machine is, what may be asked of it, and how it gets there.

Read `lifecycle` (what can happen), `operations` (what it takes), one file of `steps`, then
`driver` and `recovery`. Everything outside is reached through `agent.ports`.
"""
