"""Judgements in processes of their own outlive what they judge."""

import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from dgl_examples.processes import Processes


def verdict(name):
    if name == "ends":
        os._exit(3)
    if name == "hangs":
        time.sleep(600)
    return {"outcome": "whole", "reason": name}


@pytest.mark.slow
def test_a_case_that_ends_or_hangs_is_a_crash_and_the_next_go_on():
    verdicts = Processes(verdict, 5, []).judge(["first", "ends", "second", "hangs", "third"])
    assert list(verdicts) == ["first", "ends", "second", "hangs", "third"]
    assert [v["outcome"] for v in verdicts.values()] == ["whole", "crash", "whole", "crash", "whole"]
    assert verdicts["ends"]["reason"] == "its process ended"
    assert verdicts["hangs"]["reason"] == "took longer than 5 s"
