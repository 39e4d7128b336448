"""Deploys, carried through by the platform instead of the user's terminal.

order.py      what is written down when one begins: settings, plan, on whose behalf
plan.py       pure: which machines are created, updated, replaced, destroyed
unmade.py     what earlier deploys were to make, and did not
refusals.py   what asks for the impossible, before anything is touched
configs.py    pure: the machine configs of a release, of its release command and its tests
operations.py the steps of each strategy, and of the way back
steps/        one function per step, each may run again
listening.py  since when each host has been silent, as the run hears it
sockets.py    whether an app listens where it is expected
work.py       what a step works with: machines, gates, the journal, the run's leases
journal.py    the run's journal in control's database; every write checks the fence
worker.py     claims runs, carries them, turns them back, ends them
service.py    what the API asks: begin, plan, look, cancel, roll back
view.py       a run as people see it
"""
