"""The training loop: draws, gradients, update; reports, validation, samples and checkpoints around it.

What is drawn and minimised is the objective's (training/objective.py), what it is learnt from the dataset's. Gradients
are averaged over micro-batches and ranks between two compiled functions: one for loss and gradients, one for clipping,
the optimizer and the average of the weights. Everything random follows from (seed, step), so a
checkpoint needs no generator's state and a resumed run repeats an uninterrupted one bit for bit.
"""

import json
import math
import os
import signal
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlxflow.runtime import mx

import numpy as np  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from mlxflow.data.workers import Ahead  # noqa: E402
from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.networks import build, describe  # noqa: E402
from mlxflow.training import ema  # noqa: E402
from mlxflow.training.config import TrainConfig  # noqa: E402
from mlxflow.training.dataset import Dataset  # noqa: E402
from mlxflow.training.distillation import FewStep  # noqa: E402
from mlxflow.training.objective import FlowMatching, Objective  # noqa: E402
from mlxflow.training.optimizers import clipped, init_moments, learning_rate_at, update  # noqa: E402
from mlxflow.training.progress import Progress  # noqa: E402
from mlxflow.training.reconstruction import Reconstruction  # noqa: E402
from mlxflow.training.state import checkpoints, load_checkpoint, save_checkpoint  # noqa: E402
from mlxflow.weights import load, read_arrays, resolve  # noqa: E402

Arrays = dict[str, mx.array]
_INIT = 10


def make_apply(config: TrainConfig):
    """apply(weights, average, moments, gradients, rate, step, decay) -> new weights, average, moments, norm."""

    def apply(weights, average, moments, gradients, rate, step, decay):
        gradients, norm = clipped(gradients, config.clip)
        weights, moments = update(weights, moments, gradients, rate, step, config.weight_decay)
        return weights, ema.updated(average, weights, decay), moments, norm

    return mx.compile(apply)


@dataclass
class State:
    """Everything that changes: a checkpoint is this."""

    step: int
    images: int
    seconds: float
    weights: Arrays
    average: Arrays
    moments: Arrays


class Trainer:
    """One run in a run folder. `run()` trains until a limit or a signal and returns the last checkpoint."""

    def __init__(self, config: TrainConfig, folder: Path, data: Dataset, *, init: Path | None = None,
                 teacher: Path | None = None, progress: Progress | None = None):
        self.config, self.folder, self.data = config, folder, data
        self.group = mx.distributed.init()
        self.rank, self.size = self.group.rank(), self.group.size()
        if config.batch % (self.size * config.accumulate):
            raise MlxflowError(f"batch {config.batch} cannot be shared by {self.size} ranks with "
                               f"{config.accumulate} micro-batches each: choose a multiple of their product.")
        self.progress = progress if self.rank == 0 else None
        mx.random.seed(int(np.random.SeedSequence([config.seed, _INIT]).generate_state(1)[0]))
        self.network = build(config.model)
        self.sampler = build(config.model)
        if config.recompute:
            if not hasattr(self.network, "recompute"):
                raise MlxflowError(f"The network {self.network.kind} cannot recompute its blocks: set recompute to false.")
            self.network.recompute = True
        parts = (config, self.network, data, self.rank, self.size)
        self.objective: Objective = (
            FewStep(*parts, load(teacher, mx.float32)) if teacher
            else Reconstruction(*parts) if hasattr(self.network, "latents") else FlowMatching(*parts))
        if config.frozen and not any(n.startswith(config.frozen) for n, _ in tree_flatten(self.network.parameters())):
            raise MlxflowError(f"No parameter's name begins with '{config.frozen}': frozen leaves nothing as it is.")
        self.model_config = {"format": 1, "model": describe(self.network), "process": self.objective.process,
                             **data.stamp}
        weights = dict(tree_flatten(self.network.parameters()))
        if init is not None:
            weights |= initial_weights(init, weights, config.inherit)
        weights = {n: mx.array(w) for n, w in weights.items()}
        self.state = State(0, 0, 0.0, weights, dict(weights), init_moments(config.optimizer, weights))
        self.stopping = False

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint of this run."""
        parts, state = load_checkpoint(checkpoint)
        wanted = {"model": self.state.weights, "ema": self.state.average, "optimizer": self.state.moments}
        for stem, arrays in wanted.items():
            got = parts.get(stem, {})
            if {n: a.shape for n, a in got.items()} != {n: a.shape for n, a in arrays.items()}:
                raise MlxflowError(f"{checkpoint}/{stem}.safetensors does not belong to this run's configuration.")
        # In the order of a fresh run: the gradient norm is a sum over the names, and sums round by their order.
        ordered = [{n: parts[stem][n] for n in arrays} for stem, arrays in wanted.items()]
        self.state = State(state["step"], state["images"], state["seconds"], *ordered)

    def limit(self) -> int:
        """The step at which `steps` or `epochs` end the run; 0 for none."""
        limits = [self.config.steps] if self.config.steps else []
        if self.config.epochs:
            limits.append(math.ceil(self.config.epochs * self.data.groups / self.config.batch))
        return min(limits, default=0)

    def run(self) -> Path:
        config, state = self.config, self.state
        limit, started = self.limit(), time.monotonic()
        objective = self.objective
        frozen = {n: w for n, w in state.weights.items() if config.frozen and n.startswith(config.frozen)}

        def loss_of(weights, *arrays):
            # What is closed to gradients is left out of the backward pass.
            return objective.loss(weights | {n: mx.stop_gradient(weights[n]) for n in frozen}, *arrays)

        gradients = mx.compile(mx.value_and_grad(loss_of))
        apply = make_apply(config)
        batches = self.batches()
        report = Report(state, objective)
        if self.rank == 0 and state.step == 0 and config.sample_every:
            self.sample()
        with self.signals(), closing(batches):
            stop, arrays = False, objective.arrays(next(batches), state.step)
            while not stop and not (limit and state.step >= limit):
                loss, sums, gradient = self.accumulated(gradients, *arrays)
                late = config.minutes and time.monotonic() - started >= 60 * config.minutes
                loss, sums, gradient, stop = self.averaged(loss, sums, gradient, bool(self.stopping or late))
                rate = learning_rate_at(state.step, config.learning_rate, config.warmup, config.schedule, config.steps)
                before = {n: state.weights[n] for n in objective.buffers}
                state.weights, state.average, state.moments, norm = apply(
                    state.weights, state.average, state.moments, gradient, mx.array(rate),
                    mx.array(float(state.step + 1)), mx.array(ema.decay_at(config.ema, state.step)))
                buffers = objective.settle(before, sums, state.step) | frozen
                state.weights, state.average = state.weights | buffers, state.average | buffers
                mx.async_eval(state.weights, state.average, state.moments, loss, norm, sums)
                # While the device computes, the host gets the next batch ready.
                arrays = objective.arrays(next(batches), state.step + 1)
                mx.eval(state.weights, state.average, state.moments, loss, norm, sums)
                if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
                    good = checkpoints(self.folder)
                    last = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
                    raise MlxflowError(f"The loss is not a number any more at step {state.step + 1}; {last}. "
                                       "Resume from it with a lower --learning-rate.")
                state.step += 1
                state.images += config.batch
                report.add(loss.item(), norm.item(), sums)
                self.after_step(report, rate, limit)
        return self.checkpoint(report)

    def batches(self) -> Generator[tuple[np.ndarray, ...], None, None] | Ahead:
        """This rank's batches from the state's step on, which come from the step alone, whoever makes them."""
        config, step = self.config, self.state.step
        if not config.workers:
            return self.data.batches(config, self.rank, self.size, step)
        return Ahead(partial(self.data.batches, config, self.rank, self.size), config.workers, step)

    def accumulated(self, gradients, *arrays: mx.array):
        """Mean loss, the objective's sums and mean gradients over this rank's micro-batches."""
        parts = self.config.accumulate
        total = None
        for micro in zip(*(mx.split(a, parts) for a in arrays)):
            (loss, sums), gradient = gradients(self.state.weights, *micro)
            if parts > 1:
                mx.eval(loss, sums, gradient)
            if total is None:
                total = [loss, sums, gradient]
            else:
                total[0] = total[0] + loss
                total[1] = [a + b for a, b in zip(total[1], sums)]
                total[2] = {n: g + gradient[n] for n, g in total[2].items()}
        loss, sums, gradient = total
        if parts > 1:
            loss, gradient = loss / parts, {n: g / parts for n, g in gradient.items()}
        return loss, sums, gradient

    def averaged(self, loss: mx.array, sums: list[mx.array], gradient: Arrays, stop: bool):
        """Means over the ranks (the objective's sums are added) in one message, and whether any rank wants to stop."""
        if self.size == 1:
            return loss, sums, gradient, stop
        arrays = [mx.array(float(stop)), loss, *sums, *gradient.values()]
        message = mx.concatenate([a.reshape(-1) for a in arrays])
        message = mx.distributed.all_sum(message, group=self.group)
        ends = np.cumsum([a.size for a in arrays])[:-1].tolist()
        added = [part.reshape(a.shape) for part, a in zip(mx.split(message, ends), arrays)]
        gradient = {n: g / self.size for n, g in zip(gradient, added[2 + len(sums):])}
        return added[1] / self.size, added[2:2 + len(sums)], gradient, added[0].item() > 0

    @contextmanager
    def signals(self):
        """Ctrl-C and SIGTERM let the step finish; a second Ctrl-C interrupts at once."""

        def stop(number, frame):
            if self.stopping and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stopping = True

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def after_step(self, report: "Report", rate: float, limit: int) -> None:
        config, step = self.config, self.state.step
        if step % config.log_every == 0:
            self.log(report.line(rate))
        if self.progress:
            self.progress.step(step, limit, report)
        if config.validate_every and step % config.validate_every == 0 and self.rank == 0:
            self.validate()
        if config.sample_every and step % config.sample_every == 0 and self.rank == 0:
            self.sample()
        if step % config.checkpoint_every == 0:
            self.checkpoint(report)
        report.resume_clock()

    def log(self, line: dict) -> None:
        if self.rank == 0:
            with self.writing(self.folder / "log.jsonl") as file, open(file, "a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
            if self.progress:
                self.progress.report(line)

    def with_average(self):
        """The sampling network with the averaged weights."""
        self.sampler.update(tree_unflatten(list(self.state.average.items())))
        return self.sampler

    def validate(self) -> None:
        self.log({"step": self.state.step, "images": self.state.images,
                  **self.objective.validate(self.with_average())})

    def sample(self) -> None:
        sheet = self.objective.sheet(self.with_average())
        with self.writing(self.folder / "samples" / f"step-{self.state.step:08d}.png") as target:
            target.parent.mkdir(exist_ok=True)
            sheet.save(target)

    @contextmanager
    def writing(self, file: Path):
        """A file that cannot be written (a full disk) ends the run with what is still good."""
        try:
            yield file
        except OSError as error:
            good = checkpoints(self.folder)
            last = f"the last checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
            raise MlxflowError(f"{file} could not be written: {error.strerror or error}; {last}.") from None

    def checkpoint(self, report: "Report") -> Path:
        state = self.state
        target = self.folder / "checkpoints" / f"step-{state.step:08d}"
        if self.rank == 0 and not target.exists():
            config = self.model_config | {"trained": {"steps": state.step, "images": state.images}}
            parts = {"model": state.weights, "ema": state.average, "optimizer": state.moments}
            save_checkpoint(self.folder, state.step, parts, {"images": state.images, "seconds": report.total_seconds()},
                            config, self.config.keep)
        return target


class Report:
    """Running means since the last line of the log."""

    def __init__(self, state: State, objective: Objective):
        self.state, self.objective, self.before = state, objective, state.seconds
        self.seconds = 0.0
        self.clock = time.monotonic()
        self.clear()

    def clear(self) -> None:
        self.losses, self.norms, self.since = [], [], self.seconds
        self.sums = []

    def add(self, loss: float, norm: float, sums: list[mx.array]) -> None:
        self.seconds += time.monotonic() - self.clock
        self.losses.append(loss)
        self.norms.append(norm)
        now = [np.array(s, dtype=np.float64) for s in sums]
        self.sums = [a + b for a, b in zip(self.sums, now)] if self.sums else now

    def resume_clock(self) -> None:
        """Time spent on validation, samples and checkpoints does not count as training."""
        self.clock = time.monotonic()

    def total_seconds(self) -> float:
        return self.before + self.seconds

    def images_per_second(self) -> float:
        per_step = self.state.images / max(1, self.state.step)
        return len(self.losses) * per_step / max(1e-9, self.seconds - self.since)

    def line(self, rate: float) -> dict:
        line = {"step": self.state.step, "images": self.state.images, "loss": round(float(np.mean(self.losses)), 6),
                "grad_norm": round(float(np.mean(self.norms)), 4), "learning_rate": rate,
                "images_per_second": round(self.images_per_second(), 2), "seconds": round(self.total_seconds(), 1),
                **self.objective.entries(self.sums)}
        self.clear()
        return line


def initial_weights(path: Path, weights: Arrays, inherit: str = "") -> Arrays:
    """Arrays to start from: a file's (of a model, or of a part such as the text encoder) whose names begin with
    `inherit`. Names and shapes must fit."""
    file = resolve(path)
    arrays = {n: a.astype(mx.float32) for n, a in read_arrays(file).items() if n.startswith(inherit)}
    if not arrays:
        raise MlxflowError(f"{file} has no parameter whose name begins with '{inherit}': inherit leaves nothing.")
    if any(n.endswith(".scales") for n in arrays):
        raise MlxflowError(f"{file} is quantised, which cannot be trained: start from the weights that it was made of.")
    wrong = [n for n, a in arrays.items() if n not in weights or weights[n].shape != a.shape]
    if wrong:
        raise MlxflowError(f"{file} does not fit this network: {', '.join(sorted(wrong))}.")
    return arrays


def trim_log(run: Path, step: int) -> None:
    """Drop the log's lines after `step`: the run is about to write them again."""
    log = run / "log.jsonl"
    if not log.exists():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # a line that was cut off when the run was killed
    partial = log.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, log)
