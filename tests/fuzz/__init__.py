"""Fuzzing: damaged and hostile inputs for every command, run in one process under an audit hook.

`audit.py` says what a command may not do, `cases.py` runs one input and judges it, `mutations.py` and `inputs_*.py` make inputs,
`__main__.py` is what `shellscripts/fuzz.sh` runs. Tests of this folder import it as `fuzz`.
"""
