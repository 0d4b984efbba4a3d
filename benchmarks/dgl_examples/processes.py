"""Cases judged in processes of their own."""

import multiprocessing
import os
import sys

import torch

from .cases import CASES
from .judge import judge


class Processes:
    """Forked from one that has imported the package.

    Parameters
    ----------
    checkout : path
        Of DGL's ``examples/pytorch``.
    limit : float
        Seconds for one case.
    """

    def __init__(self, checkout, limit: float):
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the server imports before it is told the path
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__])
        self.checkout, self.limit = checkout, limit

    def judge(self, names: list) -> dict:
        """Verdicts by name on cases of one file; where one ends its process, the next go on in another."""
        verdicts, left = {}, list(names)
        while left:
            receiver, sender = self.context.Pipe(duplex=False)
            process = self.context.Process(target=_work, args=(sender, self.checkout, left))
            process.start()
            sender.close()
            lost = ""
            while left and not lost:
                try:
                    verdict = receiver.recv() if receiver.poll(self.limit) else f"took longer than {self.limit:g} s"
                except EOFError:
                    verdict = "its process ended"
                lost = verdict if isinstance(verdict, str) else ""
                verdicts[left.pop(0)] = {"outcome": "crash", "step": "", "reason": lost} if lost else verdict
            process.join(0 if lost else 10)
            process.kill()
            process.join()
        return verdicts


def _work(sender, checkout, names):
    torch.set_num_threads(1)
    sys.stdout = sys.stderr  # models may print
    cases = {case.name: case for case in CASES}
    for name in names:
        sender.send(judge(cases[name], checkout))
