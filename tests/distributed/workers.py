"""Workers of torch.distributed on this machine, each a process that runs a module of the tests."""

import os
import socket
import subprocess
import sys
import time


def start(module, count, *args):
    """Processes of ``python -m module rank count port …``."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-m", module, *map(str, (rank, count, port, *args))] for rank in range(count)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(command, env=environment, **pipes) for command in commands]


def finish(processes, seconds=240):
    """Of each what it printed, on stdout and stderr, and its exit status; those that do not end are stopped."""
    until = time.monotonic() + seconds
    try:
        return [(*one.communicate(timeout=max(until - time.monotonic(), 1)), one.returncode) for one in processes]
    finally:
        for process in processes:
            process.kill()
