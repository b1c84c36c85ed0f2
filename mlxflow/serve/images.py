"""OpenAI's images API, for programs that speak it already.

    POST /v1/images/generations   {"prompt", "n", "size", "response_format": "b64_json", ...}
    GET  /v1/models, /v1/models/NAME

https://platform.openai.com/docs/api-reference/images/create. `quality` chooses the steps; `model`, `user`,
`style` and `moderation` are taken and change nothing, since there is one model here. `seed`, `steps` and
`guidance` are ours (`extra_body` in the openai package); every picture comes with its seed. With `stream` the
pictures' estimates come as `image_generation.partial_image` events.
"""

import asyncio
import json
import secrets
import time
from base64 import b64encode
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from mlxflow.errors import MlxflowError
from mlxflow.sampling.pipeline import MAX_PICTURES, MAX_SEED, requests_for, settings_for
from mlxflow.serve import files
from mlxflow.serve.asked import made_by, max_steps, settings_of
from mlxflow.serve.requests import (
    Wrong,
    choice,
    error_answer,
    error_body,
    json_object,
    string,
    until_gone,
    whole,
)
from mlxflow.serve.worker import Job, Stage

MAX_N, MAX_PARTIAL = 10, 3
# The share of the model's usual steps.
QUALITIES = {"auto": 1, "low": 0.5, "medium": 1, "high": 2, "standard": 1, "hd": 2}
# What a client gets that asks for no size. The model draws 64 x 64; the rest is resampling.
AUTO_SIZE = 256
KNOWN = {
    "prompt",
    "n",
    "size",
    "response_format",
    "quality",
    "background",
    "output_format",
    "output_compression",
    "stream",
    "partial_images",
    "seed",
    "steps",
    "guidance",
    "model",
    "user",
    "style",
    "moderation",
}


class Asked:
    """A request, checked. Raises Wrong."""

    def __init__(self, body: dict, config: dict):
        for name in body.keys() - KNOWN:
            raise Wrong(f"Unknown parameter: '{name[:60]}'.", name[:60], "unknown_parameter")
        self.n = whole(body, "n", 1, 1, MAX_N)
        self.quality = choice(body, "quality", tuple(QUALITIES))
        self.background = choice(body, "background", ("auto", "transparent", "opaque"))
        self.format = choice(body, "output_format", ("png", "webp", "jpeg"))
        self.compression = whole(body, "output_compression", 100, 0, 100)
        self.partial = whole(body, "partial_images", 0, 0, MAX_PARTIAL)
        self.stream = body.get("stream") is True
        if self.stream and self.n > 1:
            raise Wrong("A stream has one picture: leave out 'n'.", "n")
        if body.get("response_format") not in (None, "b64_json"):
            raise Wrong(
                "'response_format' must be b64_json: pictures are not kept, so they have no address.",
                "response_format",
            )
        sizes = tuple(f"{size}x{size}" for size in files.SIZES)
        size = choice(body, "size", ("auto", *sizes))
        self.size = AUTO_SIZE if size == "auto" else int(size.partition("x")[0])
        if self.format == "jpeg" and self.background == "transparent":
            raise Wrong("JPEG has no transparency: ask for png or webp.", "background")
        steps = round(QUALITIES[self.quality] * settings_for(config).steps)
        self.settings = settings_of(body, config, min(steps, max_steps(config)))
        seed = whole(body, "seed", None, 0, MAX_SEED - MAX_PICTURES)
        seed = secrets.randbelow(2**32) if seed is None else seed
        self.requests = requests_for([string(body, "prompt")], self.n, seed)

    @property
    def shown(self) -> dict:
        """What the answer repeats of the request."""
        opaque = self.background == "opaque" or self.format == "jpeg"
        return {
            "background": "opaque" if opaque else "transparent",
            "output_format": self.format,
            "quality": self.quality,
            "size": f"{self.size}x{self.size}",
        }

    def file(self, pixels, index: int, state) -> str:
        """The picture's file in base64."""
        on = "white" if self.shown["background"] == "opaque" else None
        content = files.file_of(
            pixels,
            self.format,
            self.size,
            made_by(self.requests[index], self.settings, state.weights_digest, background=on, size=self.size),
            background=on,
            quality=self.compression,
        )
        return b64encode(content).decode()


async def generations(request: Request) -> Response:
    """POST /v1/images/generations"""
    state = request.app.state
    try:
        want = Asked(await json_object(request), state.worker.pipeline.model.config)
        job = state.worker.submit(Stage("final", want.requests, want.settings))
        if want.stream:
            return StreamingResponse(
                _events(request, want, job),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )
        pictures = await until_gone(request, job.pictures_done(), lambda: state.worker.cancel(job))
    except (MlxflowError, RuntimeError) as error:
        return error_answer(error)
    data = [
        {"b64_json": await asyncio.to_thread(want.file, pixels, i, state), "seed": want.requests[i].seed}
        for i, pixels in enumerate(pictures)
    ]
    return JSONResponse({"created": int(time.time()), "data": data, **want.shown})


async def _events(request: Request, want: Asked, job: Job) -> AsyncIterator[bytes]:
    """Server-sent events: `partial_images` estimates at equal distances, then the picture."""
    state, sent = request.app.state, 0
    try:
        async for _, frame in job.progress():
            done = frame.t == 1
            if not done and frame.t < (sent + 1) / (want.partial + 1):
                continue
            if not done and sent == want.partial:
                continue
            kind = "completed" if done else "partial_image"
            event = {
                "type": f"image_generation.{kind}",
                "created_at": int(time.time()),
                **want.shown,
                "b64_json": await asyncio.to_thread(want.file, frame.pixels, 0, state),
            }
            if not done:
                event["partial_image_index"] = sent
                sent += 1
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    except Exception as error:
        event = {"type": "error", "error": error_body(error)}
        yield f"event: error\ndata: {json.dumps(event)}\n\n".encode()
    finally:
        state.worker.cancel(job)


def _model(state) -> dict:
    return {"id": state.name, "object": "model", "created": state.begun, "owned_by": "mlxflow"}


async def models(request: Request) -> JSONResponse:
    """GET /v1/models"""
    return JSONResponse({"object": "list", "data": [_model(request.app.state)]})


async def model(request: Request) -> JSONResponse:
    """GET /v1/models/NAME"""
    name, state = request.path_params["name"], request.app.state
    if name != state.name:
        return error_answer(
            Wrong(
                f"The model '{name[:60]}' does not exist: this server has '{state.name}'.",
                "model",
                "model_not_found",
                404,
            )
        )
    return JSONResponse(_model(state))
