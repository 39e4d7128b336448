"""One function per step of a deploy, each given the run's work and what is done already.

Each may run again, wholly or from the middle: whoever carries the run on calls it anew. It says
*ensure*, looks before it acts, and names what it makes by the run.
"""
