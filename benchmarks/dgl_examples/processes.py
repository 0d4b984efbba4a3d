"""Judgements in processes of their own."""

import multiprocessing
import os
import sys


class Processes:
    """Forked from one that has imported what is slow to import.

    Parameters
    ----------
    judge : function of str
        Gives the verdict on a case, a dict; importable by name.
    limit : float
        Seconds for one case.
    preload : list of str
        Modules to import before forking.
    """

    def __init__(self, judge, limit: float, preload: list):
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the server imports before it is told the path
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(preload)
        self.function, self.limit = judge, limit

    def judge(self, names: list) -> dict:
        """Verdicts by name, one after another in one process; where one ends it, the next go on in another."""
        verdicts, left = {}, list(names)
        while left:
            receiver, sender = self.context.Pipe(duplex=False)
            process = self.context.Process(target=_work, args=(sender, self.function, left))
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


def _work(sender, function, names):
    sys.stdout = sys.stderr  # models may print
    for name in names:
        sender.send(function(name))
