"""A pipeline whose steps wait for the test: what the worker does with them can be seen one by one."""

import threading
from types import SimpleNamespace

import numpy as np

from mlxflow.sampling.pipeline import Frame
from tests.sampling import tiny


class SlowPipeline:
    """Draws 2 x 2 pictures of the seed's colour. Each step waits for `allow`; `steps` lists those taken."""

    def __init__(self, free: bool = False):
        self.model = SimpleNamespace(source=tiny.WORDS, config={"process": {}, "words": "some"})
        self.steps, self.closed, self.free = [], [], free
        self._allowed, self.waiting = threading.Semaphore(0), threading.Event()

    def allow(self, steps: int = 1) -> None:
        for _ in range(steps):
            self._allowed.release()

    def stream(self, requests, settings, *, batch=1):
        if requests[0].prompt == "smile":  # the worker's warm-up
            return
        for start in range(0, len(requests), batch):
            now = requests[start : start + batch]
            try:
                for step in range(settings.steps):
                    if not self.free:
                        self.waiting.set()
                        self._allowed.acquire()
                        self.waiting.clear()
                    if now[0].prompt == "fail":
                        raise ZeroDivisionError("a bug")
                    self.steps.append((*(request.seed for request in now), step))
                    for i, request in enumerate(now):
                        pixels = np.full((2, 2, 4), request.seed % 256, np.uint8)
                        yield Frame(start + i, (step + 1) / settings.steps, step + 1, pixels)
            except GeneratorExit:
                self.closed.append(now[0].seed)
                raise
