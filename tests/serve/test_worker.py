"""The worker: who goes first, who gives way, who is refused, and that nothing takes it down."""

import asyncio
import contextlib

import numpy as np
import pytest

from mlxflow.errors import MlxflowError
from mlxflow.sampling.pipeline import Request, Settings, settings_for
from mlxflow.serve.worker import Busy, Cancelled, Stage, Stopping, Worker
from tests.serve.conftest import until
from tests.serve.slow import SlowPipeline


@contextlib.contextmanager
def working(pipeline, queue=16):
    worker = Worker(lambda: pipeline, queue)
    worker.start()
    try:
        yield worker
    finally:
        if isinstance(pipeline, SlowPipeline):
            pipeline.free = True
            pipeline.allow(1000)
        worker.stop()


def fine(*seeds, steps=2, prompt="cat", urgency=2):
    return Stage("final", [Request(prompt, seed) for seed in seeds], Settings(steps), urgency=urgency)


def draft(*seeds):
    return Stage("draft", [Request("cat", seed) for seed in seeds], Settings(1), batch=len(seeds), urgency=0)


def test_pictures_are_those_of_the_pipeline(pipeline):
    requests = [Request("red cat", 7), Request("dog", 0)]

    async def ask(worker):
        return await worker.submit(Stage("final", requests, settings_for(pipeline.model.config, 3))).pictures_done()

    with working(pipeline) as worker:
        pictures = asyncio.run(ask(worker))
    alone = [pipeline.generate(request.prompt, seed=request.seed, steps=3)[0] for request in requests]
    assert all(np.array_equal(picture, other) for picture, other in zip(pictures, alone, strict=True))


def test_a_picture_is_drawn_once_and_the_oldest_is_forgotten(monkeypatch):
    monkeypatch.setattr("mlxflow.serve.worker.REMEMBERED", 2)
    slow = SlowPipeline(free=True)

    async def ask(worker):
        for seeds in ((1, 2), (1,), (3,), (1,), (2,)):
            pictures = await worker.submit(fine(*seeds)).pictures_done()
            assert [picture[0, 0, 0] for picture in pictures] == list(seeds)
        return [worker.known(Request("cat", seed), Settings(2)) is not None for seed in (1, 2, 3)]

    with working(slow) as worker:
        assert asyncio.run(ask(worker)) == [True, True, False]
    assert [seed for seed, step in slow.steps if step == 0] == [1, 2, 3, 2]


def test_a_newer_job_of_a_visitor_ends_the_older_after_its_step():
    slow = SlowPipeline()

    async def ask(worker):
        older = worker.submit(fine(1, steps=50), visitor="a")
        other = worker.submit(fine(2), visitor="b")
        slow.allow(2)
        until(lambda: len(slow.steps) == 2 and slow.waiting.is_set(), "two steps")
        newer = worker.submit(fine(3), visitor="a")
        slow.allow(100)
        (picture,) = await newer.pictures_done()
        assert picture[0, 0, 0] == 3 and (await other.pictures_done())[0][0, 0, 0] == 2
        with pytest.raises(Cancelled):
            await older.pictures_done()

    with working(slow) as worker:
        asyncio.run(ask(worker))
        assert [step for seed, step in slow.steps if seed == 1] == [0, 1, 2] and slow.closed == [1]
        assert worker.counts["cancelled"] == 1 and worker.counts["done"] == 2


def test_an_older_request_that_arrives_late_is_the_one_that_gives_way():
    async def ask(worker):
        newer = worker.submit(fine(1), visitor="a", turn=7)
        with pytest.raises(Cancelled):
            worker.submit(fine(2), visitor="a", turn=6)
        other = worker.submit(fine(3), visitor="b", turn=1)
        slow.allow(100)
        for job, seed in ((newer, 1), (other, 3)):
            assert (await job.pictures_done())[0][0, 0, 0] == seed

    slow = SlowPipeline()
    with working(slow) as worker:
        asyncio.run(ask(worker))


def test_drafts_go_before_fine_pictures_of_others():
    slow = SlowPipeline()

    async def ask(worker):
        first = worker.submit(fine(1))
        until(slow.waiting.is_set, "the first step")
        second = worker.submit(draft(2, 3), fine(2, 3))
        slow.allow(100)
        await asyncio.gather(first.pictures_done(), second.pictures_done())

    with working(slow) as worker:
        asyncio.run(ask(worker))
    assert slow.steps == [(1, 0), (2, 3, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]


def test_progress_numbers_the_pictures_of_a_job_through():
    async def ask(worker):
        job = worker.submit(draft(5), draft(6, 7)._replace(first=1), fine(5, 6, 7))
        return {
            (stage, frame.index): frame.pixels[0, 0, 0]
            async for stage, frame in job.progress()
            if frame.t == 1
        }

    with working(SlowPipeline(free=True)) as worker:
        assert asyncio.run(ask(worker)) == {
            (stage, i): 5 + i for stage in ("draft", "final") for i in range(3)
        }


def test_a_slow_reader_gets_the_newest_frame_and_surely_the_last():
    async def ask(worker):
        job = worker.submit(fine(1, 2, steps=40))
        await asyncio.to_thread(until, lambda: job.over, "the job")
        return [(frame.index, frame.t) async for _, frame in job.progress()]

    with working(SlowPipeline(free=True)) as worker:
        assert asyncio.run(ask(worker)) == [(0, 1.0), (1, 1.0)]


def test_a_full_queue_refuses_and_says_when_to_come_back():
    slow = SlowPipeline()

    async def ask(worker):
        jobs = [worker.submit(fine(seed)) for seed in (1, 2)]
        with pytest.raises(Busy) as refused:
            worker.submit(fine(3))
        assert refused.value.retry_after >= 1 and worker.counts["refused"] == 1
        worker.cancel(jobs[1])
        jobs[1] = worker.submit(fine(3))
        slow.allow(100)
        assert [(await job.pictures_done())[0][0, 0, 0] for job in jobs] == [1, 3]
        await worker.submit(fine(4)).pictures_done()

    with working(slow, queue=2) as worker:
        asyncio.run(ask(worker))


def test_a_job_that_fails_takes_nobody_with_it():
    async def ask(worker):
        broken = worker.submit(fine(1, prompt="fail"))
        whole = worker.submit(fine(2))
        with pytest.raises(RuntimeError, match="server made a mistake"):
            await broken.pictures_done()
        return await whole.pictures_done()

    with working(SlowPipeline(free=True)) as worker:
        assert asyncio.run(ask(worker))[0][0, 0, 0] == 2
        assert worker.alive and worker.counts["failed"] == 1


def test_stopping_ends_every_job():
    slow = SlowPipeline()

    async def ask(worker):
        jobs = [worker.submit(fine(seed, steps=1000)) for seed in (1, 2)]
        until(slow.waiting.is_set, "the first step")
        worker.end_jobs()
        with pytest.raises(Stopping):
            worker.submit(fine(3))
        slow.allow()
        for job in jobs:
            with pytest.raises(Stopping):
                await job.pictures_done()

    with working(slow) as worker:
        asyncio.run(ask(worker))
        worker.stop()
        assert not worker.alive and len(slow.steps) <= 1


def test_a_model_that_does_not_load_says_so_at_the_start():
    def load():
        raise MlxflowError("There are no weights at nowhere.")

    with pytest.raises(MlxflowError, match="nowhere"):
        Worker(load).start()


def test_a_reader_whose_loop_is_gone_does_no_harm():
    slow = SlowPipeline()

    async def leave(worker):
        worker.submit(fine(1))

    async def ask(worker):
        return await worker.submit(fine(2)).pictures_done()

    with working(slow) as worker:
        asyncio.run(leave(worker))
        slow.allow(100)
        assert asyncio.run(ask(worker))[0][0, 0, 0] == 2
