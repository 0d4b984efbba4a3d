"""The beginning of a process of distributed training or inference."""

from __future__ import annotations

import datetime
import os
import threading
import time

import dgl
import psutil
import torch

from ..training.processes import leave_on_errors, watch
from .one_host import play_machine

# What DGL's and torch's launchers tell each process.
_NEEDED = {
    "server": ("DGL_IP_CONFIG", "DGL_SERVER_ID", "DGL_NUM_SERVER", "DGL_NUM_CLIENT", "DGL_CONF_PATH"),
    "client": ("DGL_IP_CONFIG", "DGL_NUM_SERVER", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
}


# What servers have to end by themselves when a trainer is gone.
_LEFT_SECONDS = 10.0


def initialize(ip_config=None, *, timeout: float = 30.0, start_timeout: float = 600.0, **options) -> None:
    """Begin in a process that DGL's ``tools/launch.py`` or :class:`OneHost` has started: servers never return.

    In a trainer this is ``dgl.distributed.initialize``, and ``torch.distributed.init_process_group`` over gloo. Where
    ``DGL_DIST_MODE`` is not ``"distributed"`` DGL's standalone mode begins: a graph of one part, in this process.

    A trainer or server that is lost would leave the others waiting. Training of this package ends then, in every
    trainer, with one :class:`~dgl_lowbit.training.LostProcessError`, and servers end after their first trainer.

    Parameters
    ----------
    ip_config : path, optional
        The list of machines. Default: what ``DGL_IP_CONFIG`` says.
    timeout : float
        Seconds that DGL's servers may take for an answer in training, such as the blocks and features of one batch.
    start_timeout : float
        Seconds that servers may take to load their parts, and processes to find each other; the same for one process
        that waits for another at gradients, as long as both are alive.
    **options
        Of ``dgl.distributed.initialize``.

    Raises
    ------
    ValueError
        When the environment lacks what launchers set, or a timeout is not positive.
    """
    for name, seconds in (("timeout", timeout), ("start_timeout", start_timeout)):
        if not seconds > 0:
            raise ValueError(f"{name} must be a number of seconds above 0, got {seconds!r}.")
    is_distributed = os.environ.get("DGL_DIST_MODE", "standalone") == "distributed"
    role = "server" if os.environ.get("DGL_ROLE", "client") == "server" else "client"
    missing = [name for name in _NEEDED[role] if is_distributed and name not in os.environ]
    if missing and not (missing == ["DGL_IP_CONFIG"] and ip_config is not None):
        raise ValueError(
            f"the environment lacks {', '.join(missing)}; start the script by DGL's tools/launch.py, or on one host by "
            "dgl_lowbit.distributed.OneHost."
        )
    play_machine()
    ip_config = os.environ.get("DGL_IP_CONFIG", "") if ip_config is None else ip_config
    if role == "server":
        threading.Thread(target=_end_after_trainers, args=(str(ip_config),), daemon=True).start()
        dgl.distributed.initialize(str(ip_config), **options)
    watch.seconds = timeout
    with watch("the start of the servers", start_timeout):
        dgl.distributed.initialize(str(ip_config), **options)
    if is_distributed:
        leave_on_errors()
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=start_timeout))


def _end_after_trainers(ip_config):
    """End this server some time after one of its trainers is gone, for which DGL's would wait without an end."""
    namebook = dgl.distributed.rpc.read_ip_config(ip_config, int(os.environ["DGL_NUM_SERVER"]))
    port, most = namebook[int(os.environ["DGL_SERVER_ID"])][2], 0
    process = psutil.Process()
    connections = getattr(process, "net_connections", None) or process.connections  # before psutil 6
    while True:
        time.sleep(1)
        ends = [each for each in connections("tcp") if each.status == psutil.CONN_ESTABLISHED]
        trainers = sum(each.laddr.port == port for each in ends)
        if trainers < most:
            break
        most = trainers
    time.sleep(_LEFT_SECONDS)
    os._exit(1)
