"""Servers of a tiny random model: in a thread, where a test can look inside, or as the user's program."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import pytest

from mlxflow.sampling.pipeline import Pipeline
from mlxflow.serve.app import create_app
from mlxflow.serve.server import Server, listen
from mlxflow.serve.worker import Worker
from tests.sampling import tiny

PATIENCE = 60


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def error(self) -> dict:
        return self.json["error"]


class Served:
    """A server to ask: `get`, `post` and its address."""

    def __init__(self, port: int, worker: Worker | None = None):
        self.port, self.worker = port, worker
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body=None, **headers: str) -> Answer:
        """body: JSON to send, bytes to send as they are, or an iterable of bytes to send in chunks."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            headers = {"Content-Type": "application/json", **headers}
            body = json.dumps(body) if isinstance(body, dict | list | str) else body
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)


def until(condition: Callable[[], object], what: str):
    """The condition's value once it is true; fails after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)
    return value


@contextlib.contextmanager
def serving(
    load: Callable, queue: int = 16, host: str = "127.0.0.1", token: str | None = None
) -> Iterator[Served]:
    """A server in a thread, stopped at the end; it listens at 127.0.0.1 whatever `host` it believes in."""
    listening = listen("127.0.0.1", 0)
    worker = Worker(load, queue)
    worker.start()
    server = Server(create_app(worker, "tiny", host=host, token=token), worker)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Served(listening.getsockname()[1], worker)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextlib.contextmanager
def program(*options: str, **variables: str) -> Iterator[tuple[Served, subprocess.Popen, str]]:
    """`mlxflow serve` as a user starts it -> (server, process, the line it printed); killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxflow", "serve", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )
    try:
        line = process.stdout.readline().strip()
        assert line.startswith("http://"), f"no address but {line!r}"
        yield Served(int(line.split(":")[2].split("/")[0])), process, line
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return tiny.weights_folder(tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture(scope="session")
def pipeline(weights) -> Pipeline:
    return Pipeline.load(weights)


@pytest.fixture(scope="session")
def served(weights) -> Iterator[Served]:
    with serving(partial(Pipeline.load, weights)) as server:
        yield server
