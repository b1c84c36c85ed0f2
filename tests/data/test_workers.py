"""Workers change who makes a batch and nothing in it; they never outlive or hang the run."""

import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mlxflow.data import rehearsal
from mlxflow.data.workers import Ahead
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx
from mlxflow.training.config import TrainConfig
from mlxflow.training.dataset import TextDataset, open_labels
from mlxflow.training.start import start
from mlxflow.training.state import checkpoints
from tests.sampling import tiny as tiny_model
from tests.training import tiny, tiny_classes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("data") / "pictures")


def counted(step, stride):
    """Batches of their step."""
    while True:
        yield (np.full((3, 2), step, np.float32), np.array([step % 2 == 0]))
        step += stride


def watched(step, stride, make):
    """Its batches, and the most memory that MLX has had in the process that makes them."""
    for batch in make(step, stride):
        yield *batch, np.array([mx.get_peak_memory()])


def broken(step, stride, error):
    yield from islice(counted(step, stride), 2)
    raise error


def assert_same(ours, theirs):
    for batch, expected in zip(ours, theirs, strict=True):
        assert len(batch) == len(expected)
        for a, b in zip(batch, expected):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


# A pass is 8 steps.
@pytest.mark.parametrize("step, rank, size", [(0, 0, 1), (7, 1, 2)])
def test_captions_come_bit_for_bit_from_any_step(pictures, step, rank, size):
    data = TextDataset(pictures, tiny_model.WORDS, shape=(16, 16, 4), length=6)
    make = partial(data.batches, TrainConfig(batch=8, scale=0.1, flip=0.5), rank, size)
    ahead = Ahead(partial(watched, make=make), 2, step)
    *ours, peaks = zip(*islice(ahead, 11))  # more than the slots of both
    ahead.close()
    assert_same(zip(*ours), islice(make(step), 11))
    assert not np.any(peaks)  # on a GPU each array would cost half a gigabyte more
    assert not multiprocessing.active_children()


def test_classes_come_bit_for_bit(tmp_path):
    data, _ = open_labels(tiny_classes.classes(tmp_path / "classes"), {}, (8, 8, 3))
    make = partial(data.batches, TrainConfig(batch=8, shift=2, flip=0.5), 0, 1)
    ahead = Ahead(make, 3, 5)
    assert_same(islice(ahead, 20), islice(make(5), 20))
    ahead.close()


@pytest.mark.parametrize("stride, share", [(2, 0.0), (3, 0.5), (100, 0.0)])
def test_a_stride_takes_every_so_manieth_batch_of_pass_after_pass(pictures, monkeypatch, stride, share):
    monkeypatch.setattr(rehearsal, "embedded_folder", lambda: pictures)
    data = TextDataset(pictures, tiny_model.WORDS, shape=(16, 16, 4), length=6, rehearsal=share > 0)
    make = partial(data.batches, TrainConfig(batch=8, rehearsal=share), 0, 1)
    assert_same(islice(make(3, stride), 4), islice(make(3), 0, 3 * stride + 1, stride))


def test_a_killed_worker_ends_the_batches_with_a_sentence():
    ahead = Ahead(counted, 2)
    next(ahead)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(MlxflowError, match="was killed by SIGKILL.*--resume"):
        list(ahead)
    ahead.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("error, sentence", [
    (MlxflowError("The pictures are gone."), "^The pictures are gone.$"),
    (OSError("no such pixel"), "could not be made .OSError: no such pixel"),
])
def test_what_a_worker_cannot_make_is_a_sentence(error, sentence):
    ahead = Ahead(partial(broken, error=error), 1)
    assert [batch[0][0, 0] for batch in islice(ahead, 2)] == [0, 1]
    with pytest.raises(MlxflowError, match=sentence):
        next(ahead)
    del ahead  # ends the workers, too
    assert not multiprocessing.active_children()


def test_signals_are_the_parents_and_nothing_outlives_it():
    program = """
import multiprocessing, sys
from mlxflow.data.workers import Ahead
from tests.data.test_workers import counted
if __name__ == "__main__":
    kept = Ahead(counted, 2)
    print(next(kept)[0].sum(), *[child.pid for child in multiprocessing.active_children()], flush=True)
    sys.stdin.read()
    print(sum(next(kept)[0].sum() for _ in range(20)), flush=True)
"""
    for end in ("exit", "killed"):
        parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        total, *workers = parent.stdout.readline().split()
        assert total == "0.0" and len(workers) == 2
        if end == "exit":
            for worker in workers:
                os.kill(int(worker), signal.SIGINT)
                os.kill(int(worker), signal.SIGTERM)
        else:
            parent.kill()
        # Returns when the workers have ended: they hold the other ends.
        said = parent.communicate(timeout=20)
        assert said == ("1260.0\n" if end == "exit" else "", "")


def test_a_run_with_workers_is_the_run_without(pictures, tmp_path):
    flags = tiny.SETTINGS | {"steps": 3}
    start(tmp_path / "none", data=pictures, flags=flags)
    start(tmp_path / "two", data=pictures, flags=flags | {"workers": 2, "steps": 2})
    assert not multiprocessing.active_children()
    start(tmp_path / "two", data=None, flags={"steps": 3, "workers": 1}, resume=True)
    ends = [checkpoints(tmp_path / run)[-1] for run in ("none", "two")]
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (mx.load(str(end / f"{name}.safetensors")) for end in ends)
        assert ours.keys() == theirs.keys() and all(mx.array_equal(ours[n], theirs[n]) for n in ours)


def test_fewer_than_no_workers_are_refused():
    with pytest.raises(MlxflowError, match="workers must be 0 or more"):
        TrainConfig(workers=-1)
