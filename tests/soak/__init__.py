"""Soak tests: runs that are harmed (killed, out of disk or memory, one process lost), each compared with an unharmed twin.

`processes.py` starts and ends processes, `works.py` says what is run and how two results are compared, `harms.py` what is done,
`__main__.py` is what `shellscripts/soak.sh` runs. Tests of this folder import it as `soak`.
"""
