"""The routes of `mlxflow serve`."""

import contextlib
import importlib.util
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mlxflow import __version__
from mlxflow.sampling.pipeline import digest
from mlxflow.serve import drawing, images
from mlxflow.serve.metrics import Metrics
from mlxflow.serve.requests import Wrong, error_answer
from mlxflow.serve.security import Security
from mlxflow.serve.worker import Worker

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": "index.html"} | {
    f"/{file.name}": file.name for file in sorted(PAGE.iterdir()) if file.suffix in (".css", ".js", ".svg")
}


class Counting:
    """ASGI middleware: counts answers by route and status."""

    def __init__(self, app, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in PATHS else "other"

        async def counted(message):
            if message["type"] == "http.response.start":
                self.metrics.requests[route, message["status"]] += 1
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            self.metrics.requests[route, 500] += 1
            raise


async def page_file(request: Request) -> Response:
    return FileResponse(PAGE / PAGE_FILES[request.url.path], headers={"Cache-Control": "no-cache"})


async def health(request: Request) -> JSONResponse:
    """GET /health: 200 while the worker is there."""
    state = request.app.state
    alive = state.worker.alive
    return JSONResponse(
        {
            "status": "ok" if alive else "the worker is gone",
            "model": state.name,
            "version": __version__,
            "waiting": state.worker.waiting,
            "queue": state.worker.queue,
        },
        200 if alive else 503,
    )


async def metrics(request: Request) -> PlainTextResponse:
    """GET /metrics"""
    state = request.app.state
    return PlainTextResponse(state.metrics.text(state.worker), media_type="text/plain; version=0.0.4")


ROUTES = [
    *(Route(path, page_file) for path in PAGE_FILES),
    Route("/health", health),
    Route("/metrics", metrics),
    Route("/api/about", drawing.about),
    Route("/api/draw", drawing.draw, methods=["POST"]),
    Route("/api/picture", drawing.picture),
    Route("/v1/images/generations", images.generations, methods=["POST"]),
    Route("/v1/models", images.models),
    Route("/v1/models/{name:path}", images.model),
]
PATHS = {route.path for route in ROUTES}


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    sentence = {
        404: f"There is nothing at {request.url.path[:100]}.",
        405: f"{request.method} does not go with {request.url.path[:100]}.",
    }.get(error.status_code, error.detail)
    return error_answer(
        Wrong(
            sentence,
            code="not_found" if error.status_code == 404 else "invalid_request",
            status=error.status_code,
        )
    )


async def _left(request: Request, error: ClientDisconnect) -> Response:
    """Nobody reads this; 499 is what nginx logs for a client that hung up."""
    return Response(status_code=499)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    return error_answer(RuntimeError("The server made a mistake; its log says which."))


def create_app(worker: Worker, name: str, *, host: str = "127.0.0.1", token: str | None = None) -> Starlette:
    """The application over a worker that has been started; it stops the worker when it ends.

    host: the address that it will be served at. token: what every request but /health must carry, or None.
    """
    numbers = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app):
        try:
            yield
        finally:
            worker.stop()

    app = Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        middleware=[Middleware(Counting, metrics=numbers), Middleware(Security, host=host, token=token)],
        exception_handlers={HTTPException: _http_error, ClientDisconnect: _left, Exception: _bug},
    )
    app.state.worker, app.state.metrics, app.state.name, app.state.begun = (
        worker,
        numbers,
        name,
        int(time.time()),
    )
    app.state.weights_digest = digest(worker.pipeline.model.source)
    app.state.has_svg = importlib.util.find_spec("vtracer") is not None
    return app
