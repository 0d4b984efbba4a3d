"""The ASGI application: ``POST /predict`` and ``GET /health``."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..array_files import to_npy
from ..calling import Call
from ..graph import GraphError
from .batching import Batcher
from .limits import Limits, RequestError
from .requests import NPY, parse

# Numbers of an answer that are written as JSON at once.
_PIECE = 4096


def application(call: Call, limits: Limits) -> Starlette:
    """The application that answers for a model, a graph and features."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        app.state.batcher = Batcher(limits)
        task = asyncio.ensure_future(app.state.batcher.work())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def predict(request: Request) -> Response:
        body = await asyncio.wait_for(_body(request, limits.max_bytes), limits.timeout)
        wanted, nodes = parse(body, call, limits)
        result = await request.app.state.batcher.answer(wanted, nodes)
        if NPY in request.headers.get("accept", ""):
            return Response(to_npy(result), media_type=NPY)
        return StreamingResponse(to_json(result), media_type="application/json")

    async def health(request: Request) -> Response:
        batcher = request.app.state.batcher
        counts = {"waiting": batcher.waiting, "answered": batcher.answered, "runs": batcher.runs}
        return JSONResponse({"status": "ok", "nodes": call.graph.num_dst, **counts})

    return Starlette(
        routes=[Route("/predict", predict, methods=["POST"]), Route("/health", health, methods=["GET"])],
        lifespan=lifespan,
        exception_handlers=dict.fromkeys(_STATUS, _refusal),
    )


async def to_json(result: np.ndarray) -> AsyncIterator[str]:
    """Numbers by rows under the key ``logits``, in pieces, between which others get on; NaN and infinities are null."""
    if not result.ndim or not len(result):
        yield f'{{"logits":{_numbers(result)}}}'
        return
    step = max(_PIECE // max(result[0].size, 1), 1)
    for start in range(0, len(result), step):
        rows = _numbers(result[start : start + step])[1:-1]
        yield ('{"logits":[' if start == 0 else ",") + rows + ("]}" if start + step >= len(result) else "")
        await asyncio.sleep(0)


def _numbers(array):
    if not np.isfinite(array).all():
        finite, array = np.isfinite(array), array.astype(object)
        array[~finite] = None
    return json.dumps(array.tolist(), separators=(",", ":"))


async def _body(request, max_bytes):
    parts, size = [], 0
    sentence = f"the request is longer than {max_bytes:,} bytes; ask for less at once."
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise RequestError(413, sentence)
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise RequestError(413, sentence)
        parts.append(part)
    return b"".join(parts)


# What ends a request without an answer: the status, and the sentence where it is not the error's own.
_STATUS = {
    RequestError: (None, None),
    HTTPException: (None, "{method} {path:.80} is not served; there are POST /predict and GET /health."),
    GraphError: (422, None),
    asyncio.TimeoutError: (408, "the request did not arrive in time."),
    MemoryError: (503, "there is not enough memory for this request; ask for less at once."),
    ClientDisconnect: (400, "the request was not sent to its end."),
}
# Of what has not arrived whole no more is read.
_HEADERS = {503: {"retry-after": "1"}, 408: {"connection": "close"}, 413: {"connection": "close"}}


async def _refusal(request, error):
    status, sentence = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    status = status or getattr(error, "status", None) or error.status_code
    headers = _HEADERS.get(status, getattr(error, "headers", None))
    called = {"method": request.method, "path": request.url.path}
    return JSONResponse({"error": sentence.format(**called) if sentence else str(error)}, status, headers)
