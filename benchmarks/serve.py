"""What `mlxflow serve` feels like and what it withstands, with the shipped weights.

    python benchmarks/serve.py [typing] [load] [--weights emoji] [--rounds 20] [--requests 200] [--clients 8]

typing   seconds from a key press to the first picture on the page, in a headless Chromium: from the browser's
         own time of the key event until the frame after the picture has been decoded. Once for single keys, the
         page at rest before, and once for words typed at ten keys a second, where every key ends what the one
         before began.
load     as many requests from as many clients, first each client one after the other, then all at once: how
         they end, whether each got the picture that its own words and seed make, and the memory of the server.

Other work on the machine counts: the load average is printed.
"""

import argparse
import base64
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
PROMPTS = (
    "smiling cat",
    "red heart",
    "blue fish",
    "green apple",
    "yellow star",
    "robot face",
    "slice of pizza",
    "snowman",
    "rocket",
    "crying face",
)
# Watches the first candidate: `first` is the first picture after a key, `draft` the finished 4-step draft.
WATCH = """() => {
    const tile = document.querySelector(".tile"), prompt = document.getElementById("prompt");
    window.waits = [];
    let now = null;
    prompt.addEventListener("keydown", (event) => waits.push(now = {key: event.timeStamp}), true);
    const painted = (wait, name) =>
        requestAnimationFrame(() => setTimeout(() => wait[name] ??= performance.now() - wait.key));
    tile.querySelector(".shown").addEventListener("load", () => {
        if (!now || !Number(tile.style.getPropertyValue("--done"))) return;
        painted(now, "first");
        if (Number(tile.style.getPropertyValue("--done")) >= 0.2) painted(now, "draft");
    });
}"""


@contextlib.contextmanager
def serving(weights: str, *options: str):
    """The port of a server that has just been started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxflow", "serve", "--port", "0", "--weights", weights, *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(process.stdout.readline().split(":")[2].strip("/\n"))
    finally:
        process.terminate()
        process.wait()


def line(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    print(
        f"{name:46}{1000 * statistics.median(ordered):6.0f} ms"
        f"{1000 * ordered[int(0.9 * len(ordered))]:8.0f} ms"
        f"{1000 * ordered[-1]:8.0f} ms{len(ordered):6}"
    )


def typing(weights: str, rounds: int) -> None:
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("There is no Chromium or Chrome on this machine.")
    with serving(weights) as port, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        page = chromium.new_page(viewport={"width": 1200, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#model:not(:empty)")
        page.evaluate(WATCH)

        def words(i: int, delay: float) -> list[dict]:
            page.fill("#prompt", "")
            time.sleep(0.3)
            page.evaluate("waits.length = 0")
            page.locator("#prompt").press_sequentially(PROMPTS[i % len(PROMPTS)], delay=delay)
            page.wait_for_selector("#state:has-text('First look')")
            time.sleep(0.2)
            return page.evaluate("waits")

        words(0, 100)
        print(f"{'':46}{'median':>9}{'90 %':>11}{'worst':>11}{'n':>6}")
        single: list[dict] = []
        for i in range(rounds):
            words(i, 0)
            page.wait_for_selector("#state:has-text('all done')", timeout=120_000)
            page.evaluate("waits.length = 0")
            page.locator("#prompt").press("s")
            page.wait_for_selector("#state:has-text('First look')")
            time.sleep(0.2)
            single += page.evaluate("waits")
        line("a key, the page at rest: first estimate", [wait["first"] / 1000 for wait in single])
        line("a key, the page at rest: 4-step draft", [wait["draft"] / 1000 for wait in single])
        runs = [words(i, 100) for i in range(rounds)]
        line(
            "ten keys a second: first key to first picture",
            [
                min(w["key"] + w["first"] for w in run if "first" in w) / 1000 - run[0]["key"] / 1000
                for run in runs
            ],
        )
        line("ten keys a second: last key to 4-step draft", [run[-1]["draft"] / 1000 for run in runs])
        shown = [("first" in wait) for run in runs for wait in run[:-1]]
        print(f"keys with a picture before the next key: {sum(shown)} of {len(shown)}")
        chromium.close()


def load(weights: str, requests: int, clients: int) -> None:
    import numpy as np
    from PIL import Image

    from mlxflow.sampling.pipeline import Pipeline

    steps = 2  # quick: this is about many requests, not about fine pictures
    pipeline, right = Pipeline.load(weights), {}

    def ask(port: int, number: int):
        connection = HTTPConnection("127.0.0.1", port, timeout=600)
        size = f"{pipeline.model.image_size}x{pipeline.model.image_size}"
        body = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, "steps": steps, "size": size}
        with contextlib.closing(connection):
            connection.request(
                "POST", "/v1/images/generations", json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def resident(port: int) -> float:
        connection = HTTPConnection("127.0.0.1", port)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        return next(
            (float(n.split()[1]) / 1e6 for n in text.splitlines() if n.startswith("mlxflow_resident_bytes")),
            0,
        )

    def check(number: int, answer: dict) -> str:
        if number not in right:
            right[number] = pipeline.generate(PROMPTS[number % len(PROMPTS)], seed=number, steps=steps)[0]
        shown = Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
        return "its own picture" if np.array_equal(shown, right[number]) else "ANOTHER PICTURE"

    with serving(weights) as port:
        before = resident(port)
        for how, at_once, first in (
            (f"{clients} clients, one request after the other each", clients, 0),
            ("all at once", requests, requests),
        ):
            numbers = range(first, first + requests)
            begun = time.perf_counter()
            with ThreadPoolExecutor(at_once) as pool:
                answers = list(pool.map(lambda number: ask(port, number), numbers))
            seconds = time.perf_counter() - begun
            ends = Counter(
                "clear 429"
                if status == 429 and answer["error"]["code"] == "rate_limit_exceeded"
                else check(number, answer)
                if status == 200
                else f"STATUS {status}"
                for number, (status, answer) in zip(numbers, answers)
            )
            said = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
            print(
                f"{requests} requests, {how}: {said}; {seconds:.1f} s; "
                f"memory {before:.0f} -> {resident(port):.0f} MB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", help="typing, load; both by default")
    parser.add_argument("--weights", default="emoji")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    # As the commands do: on a busy machine OpenBLAS's waiting threads cost more than they give.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if hasattr(os, "getloadavg"):
        print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before this began")
    if not options.what or "typing" in options.what:
        typing(options.weights, options.rounds)
    if not options.what or "load" in options.what:
        load(options.weights, options.requests, options.clients)


if __name__ == "__main__":
    main()
