"""The process that serves: a socket, uvicorn, and a graceful end."""

from __future__ import annotations

import math
import signal
import socket
import sys

import numpy as np
import uvicorn

from ..calling import Call
from ..graph import GraphError
from .app import application
from .limits import Limits

# Seconds after which the thread that reads requests and the one that runs the model let each other go on.
_SWITCH_INTERVAL = 0.0005


def serve(call: Call, host: str, port: int, limits: Limits) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those that were accepted.

    The model runs once before, so that it is compiled and known to fit. Nothing is written to disk but kernels.

    Raises
    ------
    GraphError
        When model, graph and features do not fit, or the model returns several arrays.
    OSError
        When the address cannot be listened on.
    KeyboardInterrupt
        After SIGINT.
    """
    if not isinstance(call.prepare(), np.ndarray):
        raise GraphError("serve answers for models that return one array; this one returns several.")
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        address = f"[{host}]" if ":" in host else host
        print(f"http://{address}:{listening.getsockname()[1]}", flush=True)
        run(application(call, limits), listening, limits)


def run(app, listening: socket.socket, limits: Limits) -> None:
    """Serve an application on a socket until a signal; SIGTERM ends it as a matter of course."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when it is done
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        server(app, limits).run([listening])
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.setswitchinterval(interval)


def server(app, limits: Limits) -> uvicorn.Server:
    """What runs an application, and finishes what was accepted when it is told to exit."""
    config = uvicorn.Config(  # of its parsers only h11 bounds what headers may take
        app, http="h11", lifespan="on", log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=math.ceil(2 * limits.timeout),
    )  # fmt: skip
    return uvicorn.Server(config)
