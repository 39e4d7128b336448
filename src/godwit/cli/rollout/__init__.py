"""A deploy, seen from the client: image, release, machines, health.

plan.py      pure: which machines are created, updated, destroyed, in which order
health.py    pure: what a machine's state, events and checks say of it
watch.py     waits for one machine to be what the plan says
source.py    where the image comes from: a reference, or a build of the directory
progress.py  what the user sees meanwhile
deploy.py    the sequence, from the loaded config to the address
"""
