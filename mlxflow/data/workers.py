"""Batches made ahead by W processes, in the order of the steps: worker w makes steps w, w + W, w + 2 W, ...

One Python draws some thousand pictures a second, a large GPU learns from ten times as many. A batch follows from
its step alone (data/stream.py), so it is the same whoever makes it. It comes through memory that both processes
see, a ring of slots a worker: 34 MB of pictures would take too long through a pipe. That memory has no name and
goes with its last user, and a worker whose pipe is closed ends: nothing is left behind, however a run ends.
"""

import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import cycle
from multiprocessing import reduction, resource_tracker, util

import numpy as np

from mlxflow.errors import MlxflowError

Batch = tuple[np.ndarray, ...]
# make(step, stride): an endless generator of the batches of every stride-th step from `step` on.
Make = Callable[[int, int], Iterator[Batch]]

# Batches that a worker is ahead of the parent, and the parent of who asks.
_SLOTS, _AHEAD = 3, 2
# For workers: MLX, which a dataset's modules import, keeps off the GPU and has nothing to compute; a core each.
_ENVIRONMENT = {"MLXFLOW_DEVICE": "cpu", "MLXFLOW_BLAS": "off",
                "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Ahead(Iterator[Batch]):
    """The batches of `make(step, 1)`, bit for bit, made by `workers` processes.

    make must pickle, and gives arrays whose shapes and types are the same in every batch. Raises MlxflowError
    when a batch cannot be made or a worker was killed. `close()` ends the workers; so does the end of this
    object, or of the program.
    """

    def __init__(self, make: Make, workers: int, step: int = 0):
        # Unpickled by the worker itself, which can then say what is wrong.
        pickled = pickle.dumps(make)
        with _inherited():
            crew = [_Worker(pickled, step + w, workers) for w in range(workers)]
        # One read a worker at a time, so that each gives its batches in order.
        ahead = min(_AHEAD, workers)
        pool = ThreadPoolExecutor(ahead)
        # Before multiprocessing ends its children at exit: by a signal that they ignore.
        self._end = util.Finalize(self, _end, (crew, pool), exitpriority=1)
        reads = cycle([worker.read for worker in crew])
        self._submit = lambda: pool.submit(next(reads))
        self._ahead = deque(self._submit() for _ in range(ahead))

    def __next__(self) -> Batch:
        if not self._ahead:
            raise StopIteration
        batch = self._ahead.popleft().result()
        self._ahead.append(self._submit())
        return batch

    def close(self) -> None:
        self._ahead.clear()
        self._end()


def _end(crew: list["_Worker"], pool: ThreadPoolExecutor) -> None:
    for worker in crew:
        worker.process.kill()
    for worker in crew:
        worker.process.join()
    pool.shutdown(wait=False, cancel_futures=True)  # a read of a worker that has ended ends, too


class _Worker:
    """The parent's end of a process that makes the batches of every stride-th step from `step` on."""

    def __init__(self, pickled: bytes, step: int, stride: int):
        # Never a fork: it would have half of a GPU's state.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, pickled, step, stride), daemon=True)
        self.process.start()
        theirs.close()
        self.ring: np.ndarray | None = None
        self.number = 0

    def read(self) -> Batch:
        """The next batch, copied, so that its slot is free again."""
        try:
            if self.ring is None:
                slot = self.receive()
                self.ring = _ring(reduction.recv_handle(self.connection), slot)
            self.receive()
            batch = tuple(self.ring[name][self.number % _SLOTS].copy() for name in self.ring.dtype.names)
            self.number += 1
            with suppress(OSError):  # if it has ended meanwhile, the batch is good all the same
                self.connection.send(None)
            return batch
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else "ended too early"
            raise MlxflowError(f"A process that makes the batches {how}: go on from the last checkpoint with "
                               "--resume, and with fewer workers if memory is short.") from None

    def receive(self) -> object:
        message = self.connection.recv()
        if isinstance(message, str):
            raise MlxflowError(message)
        return message


@contextmanager
def _inherited():
    """What processes started inside inherit: `_ENVIRONMENT`, and deafness to Ctrl-C and SIGTERM, which are for the
    parent; there they wait until all are started."""
    resource_tracker.ensure_running()  # starting it would let the signals through
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _work(connection, pickled: bytes, step: int, stride: int) -> None:
    """A worker: sends its ring (type and memory), then a word for each slot that it fills; to fill one again it
    waits for a word."""
    # An error of the pipe: the parent is gone.
    with suppress(EOFError, OSError), closing(_made(pickled, step, stride)) as batches:
        for number, batch in enumerate(batches):
            if isinstance(batch, str):
                connection.send(batch)
                break
            if number == 0:
                fields = [(f"{i}", array.dtype, array.shape) for i, array in enumerate(batch)]
                slot = np.dtype(fields, align=True)
                file = _memory(_SLOTS * slot.itemsize)
                connection.send(slot)
                reduction.send_handle(connection, file, os.getppid())
                ring = _ring(file, slot)
            if number >= _SLOTS:
                connection.recv()
            for name, array in zip(slot.names, batch, strict=True):
                ring[name][number % _SLOTS] = array
            connection.send(None)
    os._exit(0)  # not by Python's own end, at which mlx.data's threads crash


def _made(pickled: bytes, step: int, stride: int) -> Iterator[Batch | str]:
    """The batches, and a sentence in the place of the first that cannot be made."""
    try:
        yield from pickle.loads(pickled)(step, stride)
    except MlxflowError as error:
        yield str(error)
    except Exception as error:
        traceback.print_exc()
        yield f"A batch could not be made ({type(error).__name__}: {error})."


def _memory(size: int) -> int:
    """A file of that many bytes without a name, in memory where the system has such (a container's /dev/shm is
    often too small)."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("mlxflow-batches")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.truncate(file, size)
    return file


def _ring(file: int, slot: np.dtype) -> np.ndarray:
    """The slots `[_SLOTS]` in a file of `_memory`, which is closed; a batch is the fields of a slot."""
    memory = mmap.mmap(file, 0)
    os.close(file)
    return np.ndarray(_SLOTS, slot, memory)
