"""The routes, as a FastAPI application. Imported only after `errors.require`: the libraries are an extra."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from tailorbird.runtime.completion import Completion
from tailorbird.serve.answers import Answer, encoded
from tailorbird.serve.engine import Engine, Job
from tailorbird.serve.errors import Refused, refusal
from tailorbird.serve.guard import Guard
from tailorbird.serve.metrics import CONTENT_TYPE
from tailorbird.serve.page import PAGE, POLICY
from tailorbird.serve.schema import ChatRequest, CompletionRequest
from tailorbird.serve.service import Service


def create_app(service: Service) -> Guard:
    """The ASGI application that serves one model; its engine runs as long as the application does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        service.engine.stop()

    # FastAPI's own pages about the API load scripts from elsewhere.
    app = FastAPI(title="tailorbird", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    for kind in (Refused, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _shaped)
    _add_models(app, service)
    _add_answers(app, service)
    _add_house(app, service)
    return Guard(app, service.settings, service.metrics)


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> Response:
        return _json({"object": "list", "data": [service.card()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        service.check_name(name)
        return _json(service.card())


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await _answer(service, body, service.chat(body), request)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await _answer(service, body, service.complete(body), request)


def _add_house(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def health() -> Response:
        draining = service.engine.draining
        return _json({"status": "draining" if draining else "ok"}, 503 if draining else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/")
    async def page() -> Response:
        return Response(PAGE, media_type="text/html", headers={"content-security-policy": POLICY})


async def _answer(service: Service, body: ChatRequest | CompletionRequest, job: Job, request: Request) -> Response:
    """The answer to a request that is in the line. Its first token decides whether it becomes one or an error."""
    job.watch = asyncio.create_task(_watch(request, service.engine, job))
    pieces = job.pieces()
    first = await anext(pieces, "")
    completion = _there(job)
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    answer = Answer(service.name, chat=isinstance(body, ChatRequest), usage=usage)
    if body.stream:
        stream = answer.stream(_after(first, pieces), completion)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
    text = first + "".join([piece async for piece in pieces])
    return _json(answer.whole(text, _there(job)))


def _there(job: Job) -> Completion:
    """The completion of a job whose client is still there; otherwise only the metrics see what is answered."""
    if job.completion is None or job.cancelled:
        raise Refused(499, "the client went away")
    return job.completion


async def _watch(request: Request, engine: Engine, job: Job) -> None:
    """Give a request up when its client goes; ends with the answer too."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    engine.cancel(job)


async def _after(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for piece in rest:
        yield piece


async def _shaped(request: Request, error: Exception) -> Response:
    """Any error as OpenAI's API has them."""
    if isinstance(error, RequestValidationError):
        error = _invalid(error)
    elif isinstance(error, HTTPException):
        error = Refused(error.status_code, str(error.detail))
    told = refusal(error)
    return _json(told.to_json(), told.status, told.headers)


def _invalid(error: RequestValidationError) -> Refused:
    """The first thing that is wrong with a body."""
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"][1:] if step is not None)[:200]
    return Refused(400, f"{where}: {first['msg'][:300]}" if where else first["msg"], param=where or None)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encoded(value), status, headers, media_type="application/json")
