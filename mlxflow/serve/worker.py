"""One thread that owns the model, and the queue in front of it.

MLX ties its streams to threads, so the thread loads the model itself and nobody else touches an array: what
leaves it is NumPy. A job is a list of stages (a draft, then the fine pictures); after every step of a sampler
the thread goes on with the stage that is most urgent, so a draft of one visitor never waits for the fine
pictures of another, and a job that is cancelled costs at most the step it is in.

A job's frames lie in a mailbox that holds the newest frame of each picture only: a reader that is slow or
gone costs no memory.
"""

import asyncio
import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mlxflow import runtime
from mlxflow.errors import MlxflowError
from mlxflow.sampling.pipeline import Frame, Pipeline, Request, Settings, settings_for

log = logging.getLogger("mlxflow.serve")

# Pictures remembered by what made them; one of 64 x 64 takes 16 KB.
REMEMBERED = 1000


class Busy(MlxflowError):
    """The queue is full; `retry_after` is a guess, in whole seconds, at when it will not be."""

    def __init__(self, retry_after: int):
        super().__init__(f"The server is busy: try again in {retry_after} s.")
        self.retry_after = retry_after


class Cancelled(MlxflowError):
    """Nobody wants the job's pictures any more: its client left, or sent a newer one."""


class Stopping(MlxflowError):
    """The server was told to stop."""

    def __init__(self):
        super().__init__("The server is stopping.")


class Stage(NamedTuple):
    """Pictures drawn with the same settings, `batch` at a time; a lower `urgency` number goes first."""

    name: str
    requests: Sequence[Request]
    settings: Settings
    batch: int = 1
    urgency: int = 2
    first: int = 0
    """The number of the stage's first picture among the job's."""


class Progress(NamedTuple):
    """How picture `frame.index` of a stage looks so far; at frame.t = 1 it is done."""

    stage: str
    frame: Frame


class Job:
    """Stages on their way, and the mailbox of their frames. Made by `Worker.submit` within an event loop."""

    def __init__(self, stages: Sequence[Stage], visitor: str | None, turn: int, order: int):
        self.stages, self.visitor, self.turn, self.order = list(stages), visitor, turn, order
        self.left = sum(len(stage.requests) for stage in stages)
        self.stage, self.frames = 0, None
        self.over, self.error = False, None
        self._lock, self._mail = threading.Lock(), OrderedDict()
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()

    @property
    def urgency(self) -> tuple[int, int]:
        return self.stages[self.stage].urgency, self.order

    def put(self, key, progress: Progress | None) -> None:
        """From the worker's thread: a newer frame takes the older one's place."""
        with self._lock:
            if progress is not None:
                self._mail[key] = progress
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the event loop is closed: nobody will read this
            self.over = True

    def end(self, error: Exception | None = None) -> None:
        self.error, self.over = self.error or error, True
        self.put(None, None)

    async def progress(self) -> AsyncIterator[Progress]:
        """The newest frames as they come, surely the last of every picture. Raises what ended the job."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            over = self.over
            with self._lock:
                mail, self._mail = self._mail, OrderedDict()
            if not isinstance(self.error, Cancelled):
                for progress in mail.values():
                    yield progress
            if over:
                if self.error is not None:
                    raise self.error
                return

    async def pictures_done(self) -> list[np.ndarray]:
        """The finished pictures of the last stage, in order, uint8 [S, S, 4]. Raises what ended the job."""
        done, last = {}, self.stages[-1].name
        async for stage, frame in self.progress():
            if stage == last and frame.t == 1:
                done[frame.index] = frame.pixels
        return [done[i] for i in sorted(done)]


class Worker:
    """The thread; `start` it, `submit` jobs from an event loop, `stop` it."""

    def __init__(self, load: Callable[[], Pipeline], queue: int = 16):
        self.load, self.queue, self.device = load, queue, runtime.device()
        self.pipeline: Pipeline | None = None
        self.counts = dict.fromkeys(("done", "cancelled", "failed", "refused", "pictures"), 0)
        self.seconds_a_picture = 1.0
        self._spent = 0.0
        self._jobs: list[Job] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._ready, self._stopping, self._failure = threading.Event(), False, None
        self._known: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="mlxflow-worker", daemon=True)

    def start(self) -> None:
        """Returns when the model is loaded and warm; raises what kept it from loading."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def end_jobs(self) -> None:
        """Ends every job after the step that it is in, and takes no more."""
        with self._changed:
            self._stopping = True
            for job in self._jobs:
                job.error = job.error or Stopping()
            self._changed.notify()

    def stop(self) -> None:
        """Ends every job and the thread; returns when it has ended."""
        self.end_jobs()
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """Jobs that are not over."""
        return len(self._jobs)

    def submit(self, *stages: Stage, visitor: str | None = None, turn: int = 0) -> Job:
        """Queues a job and cancels the visitor's older one.

        turn: which of the visitor's requests this is. Two that are sent at once on two connections may arrive
        the other way round: the older one is refused then, as Cancelled. Raises Busy when the queue is full.
        """
        with self._changed:
            if not self.alive:
                raise Stopping
            newer = Cancelled("A newer request took this one's place.")
            for old in self._jobs:
                if visitor is not None and old.visitor == visitor and old.error is None:
                    if old.turn > turn:
                        raise newer
                    self._cancel(old, newer)
            if sum(job.error is None for job in self._jobs) >= self.queue:
                self.counts["refused"] += 1
                pictures = sum(job.left for job in self._jobs)
                raise Busy(max(1, round(pictures * self.seconds_a_picture)))
            job = Job(stages, visitor, turn, next(self._order))
            self._jobs.append(job)
            self._changed.notify()
        return job

    def known(self, request: Request, settings: Settings) -> np.ndarray | None:
        """The picture, if it was drawn alone before and is remembered."""
        return self._known.get((request, settings))

    def cancel(self, job: Job) -> None:
        """Ends the job after the step that it is in; does nothing if it is over."""
        with self._changed:
            self._cancel(job, Cancelled("The request was cancelled."))
            self._changed.notify()

    @staticmethod
    def _cancel(job: Job, reason: Cancelled) -> None:
        if not job.over:
            job.error = job.error or reason

    def _run(self) -> None:
        try:
            runtime.use_device(self.device)
            self.pipeline = self.load()
            self._warm_up()
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        while (job := self._next()) is not None:
            try:
                over = not self._step(job)
            except MlxflowError as error:
                job.error, over = error, True
            except Exception:
                log.exception("A job failed.")
                job.error, over = RuntimeError("The server made a mistake; its log says which."), True
            if over or job.error is not None:
                self._finish(job)
        for job in list(self._jobs):
            self._finish(job)

    def _warm_up(self) -> None:
        """Drafts as the page asks for them: a GPU compiles its kernels now, not under a visitor's fingers."""
        settings = settings_for(self.pipeline.model.config, 2)
        for batch in (1, 3):
            for _ in self.pipeline.stream([Request("smile", 0)] * batch, settings, batch=batch):
                pass

    def _next(self) -> Job | None:
        """The most urgent job, or None to stop; jobs that were cancelled come first, to be cleared away."""
        with self._changed:
            while not self._jobs and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            return min(self._jobs, key=lambda job: (job.error is None, *job.urgency))

    def _step(self, job: Job) -> bool:
        """One frame of the job's stage, or on to its next stage; False when it has none left."""
        if job.error is not None:
            return False
        if job.frames is None:
            job.frames = self._draw(job.stages[job.stage])
        begun = time.monotonic()
        frame = next(job.frames, None)
        self._spent += time.monotonic() - begun
        if frame is None:
            job.frames = None
            job.stage += 1
            if job.stage == len(job.stages):
                job.stage -= 1
                return False
            return True
        stage = job.stages[job.stage]
        frame = frame._replace(index=stage.first + frame.index)
        if frame.t == 1:
            job.left -= 1
            self.counts["pictures"] += 1
            self.seconds_a_picture += 0.1 * (self._spent - self.seconds_a_picture)
            self._spent = 0.0
        job.put((stage.name, frame.index), Progress(stage.name, frame))
        return True

    def _draw(self, stage: Stage) -> Iterator[Frame]:
        """The stage's frames; a picture that was drawn before, alone, is not drawn again."""
        if stage.batch > 1:
            yield from self.pipeline.stream(stage.requests, stage.settings, batch=stage.batch)
            return
        for i, request in enumerate(stage.requests):
            key = (request, stage.settings)
            if (pixels := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                yield Frame(i, 1.0, 0, pixels)
                continue
            for frame in self.pipeline.stream([request], stage.settings):
                if frame.t == 1:
                    self._known[key] = frame.pixels
                    if len(self._known) > REMEMBERED:
                        self._known.popitem(last=False)
                yield frame._replace(index=i)

    def _finish(self, job: Job) -> None:
        with self._changed:
            self._jobs.remove(job)
        if job.frames is not None:
            job.frames.close()
            job.frames = None
        if job.error is None:
            self.counts["done"] += 1
        elif isinstance(job.error, Cancelled | Stopping):
            self.counts["cancelled"] += 1
        else:
            self.counts["failed"] += 1
        job.end()
