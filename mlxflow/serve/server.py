"""Where the server listens, and how it starts and stops."""

import errno
import socket

import uvicorn
from starlette.applications import Starlette

from mlxflow.errors import MlxflowError
from mlxflow.serve.worker import Worker

# Connections at once; an answer beyond says 503. A page holds one or two.
MAX_CONNECTIONS = 256
# Seconds that answers have to end after the worker has let go of them.
GRACE = 5


class Server(uvicorn.Server):
    """uvicorn that ends the jobs first when it is told to stop, so that nobody waits for the queue."""

    def __init__(self, app: Starlette, worker: Worker):
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="on",
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=GRACE,
            )
        )
        self.worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.worker.end_jobs()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises MlxflowError when the address cannot be had."""
    try:
        families = {family for family, *_ in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        raise MlxflowError(f"This machine has no address called '{host}'.") from None
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    try:
        return socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        reason = {
            errno.EADDRINUSE: f"Port {port} is in use: choose another with --port, or 0 for any free one.",
            errno.EACCES: f"Port {port} is for the system's own services: choose one above 1023 with --port.",
            errno.EADDRNOTAVAIL: f"This machine has no address {host}.",
        }
        raise MlxflowError(
            reason.get(error.errno, f"{host}:{port} cannot be listened at: {error.strerror}.")
        ) from None


def address(host: str, port: int, token: str | None) -> str:
    """What to open in a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
