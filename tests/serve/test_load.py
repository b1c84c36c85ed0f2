"""`mlxflow serve` as a program under load, and killed in the middle of it."""

import base64
import io
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import numpy as np
import pytest
from PIL import Image

from mlxflow.sampling.resize import resized
from tests.serve.conftest import PATIENCE, program, until

PROMPTS = ("red cat", "blue dog", "sun", "green apple", "heart")


def ask(server, number: int, steps: int = 1):
    body = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, "steps": steps, "size": "64x64"}
    return server.post("/v1/images/generations", body)


def picture_in(answer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json["data"][0]["b64_json"]))))


def is_right(answer, number: int, pipeline, steps: int = 1) -> bool:
    (expected,) = pipeline.generate(PROMPTS[number % len(PROMPTS)], seed=number, steps=steps)
    return np.array_equal(picture_in(answer), resized(expected, 64))


def resident(server) -> float:
    text = server.get("/metrics").content.decode()
    return next(
        (float(line.split()[1]) for line in text.splitlines() if line.startswith("mlxflow_resident_bytes")),
        0.0,
    )


@pytest.mark.parametrize("at_once, ends", [(8, {200}), (200, {200, 429})])
def test_200_requests_from_8_clients_end_each_with_its_own_picture_or_429(at_once, ends, weights, pipeline):
    """One request after the other from each: the queue has room for all. All at once: it has not."""
    with program("--weights", str(weights), "--port", "0") as (server, *_):
        with ThreadPoolExecutor(at_once) as clients:
            answers = list(clients.map(lambda number: ask(server, number), range(200)))
        warm = resident(server)
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(lambda number: ask(server, number), range(200, 300)))
        grown = resident(server) - warm
        assert server.get("/health").json["waiting"] == 0
    counts = Counter(answer.status for answer in answers)
    assert set(counts) == ends and counts[200] >= 16
    for number, answer in enumerate(answers):
        if answer.status == 200:
            assert is_right(answer, number, pipeline), f"request {number} got another picture"
        else:
            assert answer.error["code"] == "rate_limit_exceeded" and int(answer.headers["retry-after"]) >= 1
    assert grown < 20e6, f"{grown / 1e6:.0f} MB more after 100 further requests"


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_kill_in_the_middle_leaves_nothing_broken(how, weights, pipeline):
    before = {path.name: path.read_bytes() for path in weights.iterdir()}
    answers, failures = [], []

    def client(number):
        try:
            answers.append(ask(server, number, steps=64))
        except (OSError, HTTPException) as error:  # no answer, or one that breaks off
            failures.append(error)

    with program("--weights", str(weights), "--port", "0") as (server, process, _):
        threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: answers or failures or server.get("/health").json["waiting"] >= 2, "jobs")
        process.send_signal(getattr(signal, how))
        process.wait(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client waits for a server that is gone"
        port = server.port
    assert len(answers) + len(failures) == 4
    for answer in answers:
        assert answer.status == 200 or (answer.status == 503 and answer.error["code"] == "stopping")
    assert how == "SIGKILL" or not failures, "a server that is told to stop answers those who wait"
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == before
    with program("--weights", str(weights), "--port", str(port)) as (server, *_):
        assert is_right(ask(server, 3), 3, pipeline), "the same address serves the right pictures again"
