"""The work of commands and notebooks: train, encode, convert, load, save, measure speed; a run's files and checks.

Imports all other rooms except api and cli. A job takes typed settings and returns a typed result; it prints nothing.
"""
