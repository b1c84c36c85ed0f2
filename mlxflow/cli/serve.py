"""`mlxflow serve`: the page and the API on this machine."""

import os
import sys
from typing import Annotated

import typer

from mlxflow.cli.options import DeviceOption, WeightsOption

# As for `mlxflow generate`: OpenBLAS's threads wait in a spin and lose more than they gain on one picture.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

SERVER = "Server"


def serve(
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at; one that others can reach gets a token.", rich_help_panel=SERVER
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(help="Port to listen at; 0 is any free one.", min=0, max=65535, rich_help_panel=SERVER),
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MLXFLOW_TOKEN",
            show_default=False,
            rich_help_panel=SERVER,
            help="What every request must carry. [default: none at 127.0.0.1, else a random one, printed]",
        ),
    ] = None,
    queue: Annotated[
        int,
        typer.Option(
            help="Requests that wait or are being drawn; more get the answer 429.",
            min=1,
            max=1000,
            rich_help_panel=SERVER,
        ),
    ] = 16,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.", rich_help_panel=SERVER)
    ] = False,
    weights: WeightsOption = None,
    device: DeviceOption = None,
) -> None:
    """A page that draws while you type, and OpenAI's images API, on this machine. Ctrl-C stops it.

    Prints the address when it is ready. Programs use it as OpenAI's: POST /v1/images/generations.

    Example: mlxflow serve --open
    """
    import secrets
    from functools import partial
    from pathlib import Path

    from mlxflow.errors import MlxflowError

    try:
        from mlxflow.serve.app import create_app
        from mlxflow.serve.security import check_token, is_local
        from mlxflow.serve.server import Server, address, listen
        from mlxflow.serve.worker import Worker
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise MlxflowError("The server needs Starlette and uvicorn: pip install 'mlxflow[web]'.") from None
    from mlxflow.sampling.pipeline import Pipeline

    local, weights = is_local(host), weights or "emoji"
    if token is not None:
        check_token(token)
    elif not local:
        token = secrets.token_urlsafe(24)
    with listen(host, port) as listening:
        worker = Worker(partial(Pipeline.load, weights), queue)
        worker.start()
        name = Path(weights).name or "model"
        server = Server(create_app(worker, name, host=host, token=token), worker)
        page = address(host, listening.getsockname()[1], token)
        print(page, flush=True)
        if not local:
            print(
                "mlxflow: everybody who knows this address, with its token, can use the server.",
                file=sys.stderr,
            )
        if open_browser:
            typer.launch(page)
        server.run(sockets=[listening])
