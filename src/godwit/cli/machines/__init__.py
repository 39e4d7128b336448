"""Single machines, as commands change them.

flags.py      the flags that make a machine's config, declared once for run, create and update
wanted.py     pure: flags laid over a config
compared.py   pure: what is different between two configs, in lines for people
clones.py     pure: the config of a machine's copy
"""
