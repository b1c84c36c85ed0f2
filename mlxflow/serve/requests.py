"""What both APIs share: a JSON body read strictly, errors in one shape, and clients that hang up."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from mlxflow.errors import MlxflowError
from mlxflow.serve.worker import Busy, Cancelled, Stopping


class Wrong(MlxflowError):
    """A request that cannot be answered: the sentence, the wrong parameter, and OpenAI's word for it."""

    def __init__(
        self, sentence: str, parameter: str | None = None, code: str = "invalid_value", status: int = 400
    ):
        super().__init__(sentence)
        self.parameter, self.code, self.status = parameter, code, status


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a dict. Raises Wrong for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Wrong("The body must be JSON, with the header 'Content-Type: application/json'.", status=415)
    try:
        body = json.loads(await request.body(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Wrong("The body is not JSON.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise Wrong("The body must be a JSON object.", code="invalid_json")
    return body


def _no_number(name: str):
    raise ValueError(name)


def whole(body: dict, name: str, default: int | None, low: int, high: int) -> int | None:
    """body[name] as a whole number within [low, high]; the default where it is missing or null."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Wrong(f"'{name}' must be a whole number between {low} and {high}.", name)
    return value


def number(body: dict, name: str, default: float | None, low: float, high: float) -> float | None:
    """body[name] as a number within [low, high]; the default where it is missing or null."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Wrong(f"'{name}' must be a number between {low:g} and {high:g}.", name)
    return float(value)


def string(body: dict, name: str) -> str:
    """body[name], which must be there. Raises Wrong."""
    value = body.get(name)
    if value is None:
        raise Wrong(f"'{name}' is missing.", name, "missing_required_parameter")
    if not isinstance(value, str):
        raise Wrong(f"'{name}' must be text.", name)
    return value


def choice(body: dict, name: str, options: tuple[str, ...]) -> str:
    """body[name], one of the options; the first where it is missing or null."""
    value = body.get(name)
    if value is None:
        return options[0]
    if value not in options:
        raise Wrong(f"'{name}' must be one of {', '.join(options)}.", name)
    return value


def error_body(error: Exception) -> dict[str, Any]:
    """What went wrong, in the shape of OpenAI's error objects."""
    kind, code, parameter = "invalid_request_error", None, None
    if isinstance(error, Wrong):
        code, parameter = error.code, error.parameter
    elif isinstance(error, Busy):
        kind, code = "rate_limit_error", "rate_limit_exceeded"
    elif isinstance(error, Cancelled):
        code = "cancelled"
    elif isinstance(error, Stopping):
        kind, code = "server_error", "stopping"
    elif not isinstance(error, MlxflowError):
        kind, code = "server_error", "server_error"
    return {"message": str(error), "type": kind, "param": parameter, "code": code}


def error_answer(error: Exception) -> JSONResponse:
    """The error as an answer, with its status; 429 says when to try again."""
    if isinstance(error, Busy):
        return JSONResponse({"error": error_body(error)}, 429, {"Retry-After": str(error.retry_after)})
    if isinstance(error, Wrong):
        status = error.status
    else:
        known = {Cancelled: 409, Stopping: 503, MlxflowError: 400}
        status = next((number for kind, number in known.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": error_body(error)}, status)


async def until_gone(request: Request, work: Coroutine, cancel: Callable[[], None]) -> Any:
    """The result of `work`; when the client hangs up first, calls `cancel` and raises ClientDisconnect.

    The request's body must have been read.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            cancel()
            task.cancel()


async def hung_up(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
