"""Several machines of DGL's distributed engine played by processes of one host: for tests and small tries."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import dgl

# Says which of the machines a process belongs to, and whose shared memory it uses.
_MACHINE, _RUN = "DGL_LOWBIT_MACHINE", "DGL_LOWBIT_RUN"
_SHARED_MEMORY = Path("/dev/shm")
# Where DGL makes shared memory, or looks for it, under names that do not say the machine.
_NAMING = {
    "empty_shared_mem": ("kvstore", "dist_graph", "graph_partition_book", "shared_mem_utils"),
    "exist_shared_mem_array": ("dist_graph", "graph_partition_book"),
}


class OneHost:
    """A server and trainers for each machine, as processes of this host, which end with the thread that made it.

    The command is run once a process, with the environment that DGL's ``tools/launch.py`` gives it, and calls
    :func:`dgl_lowbit.distributed.initialize` first. Nothing needs root: shared memory has names of its own for each
    machine, where DGL's would be the same, and machines are told by number, where DGL tells them by address.

    Parameters
    ----------
    command : sequence of str
        As ``[sys.executable, "train.py"]``.
    part_config : path
        What ``dgl.distributed.partition_graph`` wrote: ``NAME.json``. It has as many parts as there are machines.
    folder : path
        Where the list of addresses, ``machines.txt``, and what processes print are written to: ``server0.log``, …,
        ``trainer0.log``, ….
    machines, trainers : int
        How many machines, and trainers on each.

    Attributes
    ----------
    servers, trainers : list of subprocess.Popen
        Machine after machine.

    Raises
    ------
    ValueError
        When ``part_config`` is no file, or numbers are not positive.
    """

    def __init__(self, command: Sequence[str], part_config, folder, machines: int = 2, trainers: int = 1):
        if not Path(part_config).is_file():
            raise ValueError(f"part_config is to be a file of dgl.distributed.partition_graph, got {part_config!r}.")
        for name, count in (("machines", machines), ("trainers", trainers)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number above 0, got {count!r}.")
        _clear_up()
        self._run, self._folder = f"lowbit-{os.getpid()}-{uuid.uuid4().hex[:8]}", Path(folder)
        ports = _free_ports(machines + 1)
        addresses = self._folder / "machines.txt"
        addresses.write_text("".join(f"127.0.0.1 {port}\n" for port in ports[1:]))
        shared = {
            "DGL_DIST_MODE": "distributed",
            "DGL_IP_CONFIG": addresses,
            "DGL_CONF_PATH": part_config,
            "DGL_NUM_SERVER": 1,
            "DGL_NUM_CLIENT": machines * trainers,
            "DGL_NUM_SAMPLER": 0,
            "DGL_GRAPH_FORMAT": "csc",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": ports[0],
            "WORLD_SIZE": machines * trainers,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", 1),
            _RUN: self._run,
        }
        self.servers: list[subprocess.Popen] = []
        self.trainers: list[subprocess.Popen] = []
        try:
            for machine in range(machines):
                own = {**shared, _MACHINE: machine, "DGL_ROLE": "server", "DGL_SERVER_ID": machine}
                self.servers.append(_start(command, own, self._log("server", machine)))
            for rank in range(machines * trainers):
                own = {**shared, _MACHINE: rank // trainers, "DGL_ROLE": "client", "RANK": rank}
                self.trainers.append(_start(command, own, self._log("trainer", rank)))
        except BaseException:
            self.close()
            raise

    def wait(self, timeout: float | None = None, grace: float = 90.0) -> list[int]:
        """Wait for the trainers, then end what is left; returns their exit codes.

        When a process ends with an error, the trainers have ``grace`` seconds to end by themselves.

        Raises
        ------
        TimeoutError
            After ``timeout`` seconds; all processes are ended before.
        """
        end = None if timeout is None else time.monotonic() + timeout
        failed_at = None
        try:
            while any(trainer.poll() is None for trainer in self.trainers):
                now = time.monotonic()
                if failed_at is None and any(process.poll() for process in [*self.servers, *self.trainers]):
                    failed_at = now
                if end is not None and now > end:
                    raise TimeoutError(f"the trainers had not ended after {timeout:g} seconds.")
                if failed_at is not None and now > failed_at + grace:
                    break
                time.sleep(0.1)
            else:
                self._await_servers(20.0)
        finally:
            self.close()
        return [trainer.returncode for trainer in self.trainers]

    def printed(self, kind: str, number: int) -> str:
        """What a process has printed; ``kind`` is "server" or "trainer"."""
        return self._log(kind, number).read_text(errors="replace")

    def _log(self, kind, number):
        return self._folder / f"{kind}{number}.log"

    def _await_servers(self, seconds):
        end = time.monotonic() + seconds
        while any(server.poll() is None for server in self.servers) and time.monotonic() < end:
            time.sleep(0.1)

    def close(self) -> None:
        """End all processes, and remove their shared memory."""
        for process in [*self.trainers, *self.servers]:
            if process.poll() is None:
                process.kill()
            process.wait()
        for left in _SHARED_MEMORY.glob(f"*{self._run}*"):
            left.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _clear_up():
    """Remove the shared memory of hosts that were killed."""
    for left in _SHARED_MEMORY.glob("lowbit-*"):
        owner = left.name.split("-")[1]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            with contextlib.suppress(PermissionError):  # another user's
                left.unlink(missing_ok=True)


def _free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _start(command, environment, log):
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    with log.open("w") as file:
        # A session of its own: Ctrl-C is this process's, which then ends them.
        return subprocess.Popen(
            [*map(str, command)],
            env=environment,
            stdout=file,
            stderr=file,
            preexec_fn=_end_with_parent,
            start_new_session=True,
        )


def _end_with_parent():
    death_signal = 1  # PR_SET_PDEATHSIG of Linux
    ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


def play_machine() -> None:
    """In a process of :class:`OneHost`, let DGL take it for one of its machine; elsewhere do nothing."""
    if _MACHINE not in os.environ:
        return
    machine = int(os.environ[_MACHINE])

    def renamed(function):
        @functools.wraps(function)
        def on_machine(name, *args, **kwargs):
            slash, rest = ("/", name[1:]) if name.startswith("/") else ("", name)
            return function(f"{slash}{os.environ[_RUN]}-{machine}-{rest}", *args, **kwargs)

        return on_machine

    distributed = dgl.distributed
    for function, modules in _NAMING.items():
        for module in (getattr(distributed, name) for name in modules):
            setattr(module, function, renamed(getattr(module, function)))
    create = "create_heterograph_from_shared_memory"
    setattr(dgl.heterograph_index, create, renamed(getattr(dgl.heterograph_index, create)))
    share = dgl.DGLGraph.shared_memory
    dgl.DGLGraph.shared_memory = lambda graph, name, **options: renamed(functools.partial(share, graph))(
        name, **options
    )
    distributed.rpc_client.get_local_machine_id = lambda _: machine
