"""What running kernels leaves of the process's threads."""

import subprocess
import sys

import numba
import pytest

from .plans import JIT_OFF

CODE = """
import numpy as np, torch
import numba_kernels as nk
torch.set_num_threads(1)
assert torch.get_num_threads() == 1  # torch reads its setting once a thread, OpenMP's from then on
{first}
codes = nk.quantize(np.ones((2, 8), np.float32), nk.Grid(8, 2, scale=1.0))
nk.spmm(([0, 2, 4], [0, 1, 1, 0]), codes)
print(torch.get_num_threads(), nk.get_num_threads())
"""


@pytest.mark.slow
@pytest.mark.skipif(JIT_OFF, reason="threads are the compiler's")
@pytest.mark.parametrize("first", ["", pytest.param("nk.get_num_threads()", marks=pytest.mark.slow)])
def test_the_thread_count_of_torch_stays(first):
    most = numba.config.NUMBA_NUM_THREADS
    if most < 2:
        pytest.skip("one thread on this machine")
    done = subprocess.run([sys.executable, "-c", CODE.format(first=first)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", str(most)]
