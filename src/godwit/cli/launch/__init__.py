"""Launching: what a directory holds, and the app and config file that come of it.

naming.py    pure: names for apps
proposal.py  flags, files and the platform's answers → one proposal, shown before it is done
"""
