"""Operations that survive a crash: a journal of steps, and the runner that resumes them.

Knows nothing of machines. `agent.machines` is the first user; deploys, volume copies and
certificate orders run through the same two modules.
"""
