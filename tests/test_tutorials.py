import os
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"


@pytest.mark.parametrize(
    "script",
    [
        path.name if path.name == "quickstart.py" else pytest.param(path.name, marks=pytest.mark.slow)
        for path in sorted(TUTORIALS.glob("*.py"))
    ],
)
def test_tutorials_run_on_a_small_setting(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(TUTORIALS / script), "--epochs", "5"],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|" in done.stdout
