"""Soak tests: runs that are killed, starved of disk or memory, or bereft of a process, each compared with a twin that was left alone.

`processes.py` starts and harms processes, `works.py` says what is run and how two results are compared, `harms.py` what is done to it,
`__main__.py` is what `shellscripts/soak.sh` runs. Tests of this folder import it as `soak`.
"""
