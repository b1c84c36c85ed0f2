"""What the page asks for: pictures while somebody types, and files of the ones that they like.

    POST /api/draw     {"prompt", "seed", "count", "steps", "guidance", "visitor", "turn"} -> lines of JSON:
                       {"picture": 0, "stage": "draft" | "final", "t": 0.4, "png": base64}, ... {"done": true},
                       or {"error": {...}} as the last line; t = 1 is the end of a stage; a visitor's request
                       with a later turn ends the one before
    GET  /api/picture  ?prompt=&seed=&steps=&guidance=&kind=png|webp|svg&size=128&download=1 -> the file;
                       for=slack|discord|sticker in place of kind and size: what that chat takes

The first picture is drafted alone, since it is sooner there than four; the others are drafted together, which
is sooner for all three. The fine pictures are drawn one by one, so that they are bit for bit what
`mlxflow generate` draws.
"""

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from mlxflow.errors import MlxflowError
from mlxflow.sampling import output
from mlxflow.sampling.pipeline import MAX_PICTURES, MAX_SEED, Settings, requests_for, settings_for
from mlxflow.sampling.platforms import PLATFORMS
from mlxflow.serve import files
from mlxflow.serve.asked import MAX_GUIDANCE, draft_of, has_guidance, made_by, max_steps, settings_of
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
from mlxflow.serve.worker import Job, Stage, Worker

PICTURES, DRAFT_STEPS = 4, 4
# Estimates are shown from these times on: the first of a draft is a blur, and a fine picture on its way looks
# worse than the draft until then.
SHOWN = {"draft": 0.2, "final": 0.5}
# Pixels of a fine picture for the page: its edges are smoother than what a browser makes of 64.
SHARP = 256


def asked(body: dict, config: dict, count: int = 1) -> tuple[list, Settings]:
    """The pictures and settings that a request asks for, each number within what a page may ask."""
    seed = whole(body, "seed", 0, 0, MAX_SEED - MAX_PICTURES)
    return requests_for([string(body, "prompt")], count, seed), settings_of(body, config)


def stages(requests: list, settings: Settings, worker: Worker) -> list[Stage]:
    """Drafts of all, then all of them fine; no drafts if those are as fine, or the fine ones are remembered."""
    final = Stage("final", requests, settings)
    rough = draft_of(settings, worker.pipeline.model.config, DRAFT_STEPS)
    if rough == settings or all(worker.known(request, settings) is not None for request in requests):
        return [final._replace(urgency=0)]
    made = [Stage("draft", requests[:1], rough, urgency=0)]
    if rest := requests[1:]:
        made.append(Stage("draft", rest, rough, batch=len(rest), urgency=1, first=1))
    return [*made, final]


async def draw(request: Request) -> Response:
    """POST /api/draw"""
    begun = time.monotonic()
    state = request.app.state
    try:
        body = await json_object(request)
        config = state.worker.pipeline.model.config
        requests, settings = asked(body, config, whole(body, "count", PICTURES, 1, PICTURES))
        visitor = body.get("visitor")
        if visitor is not None and not (isinstance(visitor, str) and len(visitor) <= 64):
            raise Wrong("'visitor' must be text of at most 64 characters.", "visitor")
        turn = whole(body, "turn", 0, 0, 2**53)
        job = state.worker.submit(*stages(requests, settings, state.worker), visitor=visitor, turn=turn)
    except MlxflowError as error:
        return error_answer(error)
    return StreamingResponse(
        _lines(request, job, begun), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"}
    )


async def _lines(request: Request, job: Job, begun: float) -> AsyncIterator[bytes]:
    state, first = request.app.state, True
    try:
        async for stage, frame in job.progress():
            if frame.t < SHOWN[stage]:
                continue
            if first and frame.t == 1:
                state.metrics.first_picture.observe(time.monotonic() - begun)
                first = False
            size = SHARP if stage == "final" and frame.t == 1 else None
            yield _line(
                picture=frame.index,
                stage=stage,
                t=round(frame.t, 4),
                png=b64encode(files.quick_png(frame.pixels, size)).decode(),
            )
        yield _line(done=True)
    except Exception as error:
        yield _line(error=error_body(error))
    finally:
        # Also when the client hangs up: Starlette cancels this generator then.
        state.worker.cancel(job)


def _line(**event) -> bytes:
    return json.dumps(event).encode() + b"\n"


async def picture(request: Request) -> Response:
    """GET /api/picture"""
    query, state = request.query_params, request.app.state
    try:
        kind = choice(query, "kind", ("png", "webp", "svg"))
        size = choice(query, "size", tuple(map(str, files.SIZES)))
        chat = choice(query, "for", tuple(PLATFORMS)) if "for" in query else None
        body = {name: _number_in(query[name]) for name in ("seed", "steps", "guidance") if name in query}
        body |= {name: query[name] for name in ("prompt",) if name in query}
        (asked_for,), settings = asked(body, state.worker.pipeline.model.config)
        pixels = state.worker.known(asked_for, settings)
        if pixels is None:
            job = state.worker.submit(Stage("final", [asked_for], settings, urgency=1))
            (pixels,) = await until_gone(request, job.pictures_done(), lambda: state.worker.cancel(job))
        made = partial(made_by, asked_for, settings, state.weights_digest)
        if chat:
            content, kind = await asyncio.to_thread(files.file_for, pixels, chat, made(**{"for": chat}))
        else:
            content = await asyncio.to_thread(files.file_of, pixels, kind, int(size), made(size=int(size)))
    except MlxflowError as error:
        return error_answer(error)
    headers = {"Cache-Control": "private, max-age=3600"}
    if query.get("download"):
        name = output.slug(asked_for.prompt).encode("ascii", "ignore").decode().strip("-") or "picture"
        headers["Content-Disposition"] = f'attachment; filename="{name}-{asked_for.seed}.{kind}"'
    return Response(content, media_type=files.TYPES[kind], headers=headers)


def _number_in(text: str):
    """A number of an address, or the text itself, which no number's check lets through."""
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return text


async def about(request: Request) -> JSONResponse:
    """GET /api/about: what the page needs to know before the first word."""
    state, config = request.app.state, request.app.state.worker.pipeline.model.config
    usual = settings_for(config)
    return JSONResponse(
        {
            "model": state.name,
            "steps": usual.steps,
            "max_steps": max_steps(config),
            "guidance": usual.guidance,
            "max_guidance": MAX_GUIDANCE if has_guidance(config) else None,
            "svg": state.has_svg,
        }
    )
