#!/usr/bin/env bash
# Sets lvdm up and runs every test.
#
#   bash shellscripts/test.sh                        runs all tests
#   bash shellscripts/test.sh tests/test_setup.py    passes its arguments to pytest
#
# Hardware  2 CPU cores, no GPU
# Time      about 15 minutes on 2 cores without the first installation
# Result    pytest's last line; exit status 0 if all tests pass
LVDM_EXTRAS=test source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

cores="$(nproc)"
export OMP_NUM_THREADS=1 # the tests share the cores by processes
cd "$root"
exec "$python" -m pytest -n "$((cores < 8 ? cores : 8))" --dist loadfile "$@"
