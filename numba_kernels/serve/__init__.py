"""A packed model behind HTTP: all but ``app`` and ``server`` need no library of servers."""

from __future__ import annotations

from .limits import Limits

__all__ = ["Limits", "serve"]


def serve(call, host: str, port: int, limits: Limits) -> None:
    """Answer requests until SIGTERM or SIGINT; see :func:`numba_kernels.serve.server.serve`."""
    try:
        from .server import serve as run
    except ModuleNotFoundError as error:
        raise ImportError(
            f"serve needs {error.name}, which is not installed: pip install starlette uvicorn, or the "
            "package with its extra, 'dgl-lowbit-runtime[serve]', or beside DGL 'dgl-lowbit[serve]'."
        ) from error
    run(call, host, port, limits)
