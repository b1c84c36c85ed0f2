"""The comparisons: forward, loss and gradients, training steps, sampling. Each gives rows (errors.py).

Ours is the code that trains and draws: the objectives of training/, `make_apply` of the trainer, `states` of
the pipeline. The twin's is the process.py and optim.py beside it.
"""

from contextlib import contextmanager
from types import SimpleNamespace

from mlxflow.runtime import mx

import numpy as np  # noqa: E402
from mlx.utils import tree_unflatten  # noqa: E402

from mlxflow import runtime  # noqa: E402
from mlxflow.interop.torch import to_torch  # noqa: E402
from mlxflow.networks import describe  # noqa: E402
from mlxflow.networks.autoencoder import codebook_update  # noqa: E402
from mlxflow.networks.blocks import Conv3x3, plain_operations  # noqa: E402
from mlxflow.parity import errors, twins  # noqa: E402
from mlxflow.parity.errors import Row, Tolerance, row  # noqa: E402
from mlxflow.parity.inputs import Batch, batch, forward_inputs  # noqa: E402
from mlxflow.parity.pair import Pair, call, parameters  # noqa: E402
from mlxflow.sampling.pipeline import SHORTCUT, states  # noqa: E402
from mlxflow.training import ema  # noqa: E402
from mlxflow.training.config import TrainConfig  # noqa: E402
from mlxflow.training.objective import FlowMatching  # noqa: E402
from mlxflow.training.optimizers import init_moments, uses_muon  # noqa: E402
from mlxflow.training.reconstruction import Reconstruction  # noqa: E402
from mlxflow.training.trainer import make_apply  # noqa: E402
from mlxflow.weights import path_of, velocity_of  # noqa: E402

PROCESS = {"path": "condot", "prediction": "data", "floor": 0.05}
STEPS = 5
# Of training: enough decay to show in five steps, and a norm that most gradients exceed.
DECAY, CLIP = 0.3, 0.1
# The share of the largest gradient below which a gradient is rounding: that by the bias of keys is zero,
# since softmax does not see what it adds to all scores alike.
ROUNDING = 1e-6


@contextmanager
def eager():
    """Inside, compiled functions run operation by operation: on the CPU each new kernel would cost a run of
    g++.
    """
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


def is_velocity(network) -> bool:
    return hasattr(network, "predict")


def is_few_step(network) -> bool:
    return any(name.split(".")[-2:] == ["step", "up"] for name, _ in network.named_modules())


def steps_of(made: Batch) -> np.ndarray:
    """A step for each sample, from nothing to the rest of the way."""
    return (np.linspace(0, 1, len(made.t)) * (1 - made.t)).astype(np.float32)


def forward(pair: Pair, seed: int = 0, table=None,
            tolerance: Tolerance = errors.FORWARD) -> dict[str, list[Row]]:
    """Every module's output: a mixed batch, the edges, and the forms that only some batches and devices take.
    """
    def compared(count, which="mixed", t=None):
        made = batch(pair.network, count, seed, which, t, table)
        return pair.compare(*forward_inputs(pair.network, made), tolerance=tolerance)

    found = {"forward": compared(4), "batch of 1": compared(1)}
    if is_velocity(pair.network):
        found |= {"t = 0": compared(2, t=0.0), "t = 1": compared(2, t=1.0)}
        if pair.kind == "text-unet":
            found |= {"empty prompt": compared(2, "none"), "longest prompt": compared(2, "longest")}
        elif pair.network.config.classes:
            found["null label"] = compared(2, "none")
    if is_few_step(pair.network):
        made = batch(pair.network, 4, seed, table=table)
        found["over a step"] = pair.compare(*forward_inputs(pair.network, made), step=steps_of(made),
                                            tolerance=tolerance)
    # A training batch's convolutions take Winograd's form on the CPU; elsewhere it is one more batch.
    found[f"batch of {Conv3x3.LEAST_BATCH}"] = compared(Conv3x3.LEAST_BATCH)
    with plain_operations():
        found["MLX's own operations"] = compared(2)
    return found


def step_gradients(pair: Pair, count: int = 4, seed: int = 0, table=None) -> list[Row]:
    """Of a few-step network: the mean square of its output over a step, and its gradient by each parameter.
    """
    made = batch(pair.network, count, seed, table=table)
    inputs, step = forward_inputs(pair.network, made), steps_of(made)

    def loss(weights):
        pair.network.update(tree_unflatten(list(weights.items())))
        return mx.square(call(pair.network, *map(mx.array, inputs), step=mx.array(step))).mean()

    value, ours = mx.value_and_grad(loss)({n: mx.array(a) for n, a in parameters(pair.network).items()})
    mx.eval(value, ours)
    pair.twin.zero_grad()
    their_loss = call(pair.twin, *map(pair.tensor, inputs), step=pair.tensor(step)).square().mean()
    their_loss.backward()
    return [row("loss", value, their_loss.item(), errors.FORWARD), *gradient_rows(pair, ours)]


def gradient_rows(pair: Pair, ours: dict[str, mx.array]) -> list[Row]:
    """Against the gradients that are in the twin's parameters; zero for one that the loss does not reach."""
    theirs = their_gradients(pair)
    allowed = Tolerance(ROUNDING * largest(theirs), errors.GRADIENT.relative)
    return [row(name, ours[name], g, allowed) for name, g in theirs.items()]


def their_gradients(pair: Pair) -> dict[str, np.ndarray]:
    named = pair.twin.named_parameters()
    return pair.arrays({n: p.grad if p.grad is not None else p.detach() * 0 for n, p in named})


class Learning:
    """Loss and gradients of one batch on both sides, by the same configuration of training."""

    def __init__(self, pair: Pair, process: dict = PROCESS, **settings):
        kept = {n: process[n] for n in ("path", "prediction", "floor", "sigma_min") if n in process}
        self.pair, self.process = pair, process
        self.config = TrainConfig(model=describe(pair.network), precision="float32", **kept, **settings)
        objective = FlowMatching if is_velocity(pair.network) else Reconstruction
        self.objective = objective(self.config, pair.network, SimpleNamespace(shape=pair.network.shape), 0, 1)

    def arrays(self, made: Batch) -> tuple[np.ndarray, ...]:
        """What the objective's loss is given."""
        if is_velocity(self.pair.network):
            return made.x1, made.x0, made.t, *made.told
        return forward_inputs(self.pair.network, made)

    def ours(self, weights: dict, made: Batch):
        """Loss, the objective's sums, gradients by name."""
        with eager():
            arrays = map(mx.array, self.arrays(made))
            (loss, sums), gradients = mx.value_and_grad(self.objective.loss)(weights, *arrays)
            mx.eval(loss, sums, gradients)
        return loss, sums, gradients

    def theirs(self, made: Batch):
        """The twin's loss; the gradients are in its parameters."""
        twin, tensor = self.pair.twin, self.pair.tensor
        twin.zero_grad()
        if self.pair.kind == "kl-vae":
            loss = twin.loss(tensor(made.x1), tensor(made.x0), self.config.kl_weight)
        elif self.pair.kind == "vq-vae":
            loss = twin.loss(tensor(made.x1), self.config.commitment)
        else:
            process = twins.load().process
            path, t = process.Path(self.process), tensor(made.t)
            x0, x1 = tensor(made.x0), tensor(made.x1)
            output = twin(path.sample(x0, x1, t), t, *map(tensor, made.told))
            loss = process.loss(path, output, x0, x1, t, self.config.weight_cap, self.config.contrast)
        loss.backward()
        return loss


def gradients(pair: Pair, count: int, seed: int = 0, table=None, process: dict = PROCESS,
              **settings) -> list[Row]:
    """The loss, and its gradient by each parameter."""
    learning = Learning(pair, process, **settings)
    made = batch(pair.network, count, seed, table=table)
    loss, _, ours = learning.ours({n: mx.array(a) for n, a in parameters(pair.network).items()}, made)
    return [row("loss", loss, learning.theirs(made).item(), errors.FORWARD), *gradient_rows(pair, ours)]


def largest(arrays: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(a).max()) for a in arrays.values())


def updates(pair: Pair, optimizer: str, seed: int = 0, steps: int = STEPS) -> list[Row]:
    """`steps` updates by the same gradients, drawn at random: how all weights and their averages moved."""
    start = parameters(pair.network)
    rng = np.random.default_rng([seed, 34])
    config = TrainConfig(model=describe(pair.network), optimizer=optimizer, weight_decay=DECAY, clip=CLIP)
    named = dict(pair.twin.named_parameters())
    weights = {n: mx.array(start[n]) for n in named}
    average, moments = dict(weights), init_moments(optimizer, weights)
    twin = twin_training(pair, weights, config)
    for step in range(steps):
        gradient = {n: rng.standard_normal(a.shape, dtype=np.float32) for n, a in weights.items()}
        ours = {n: mx.array(g) for n, g in gradient.items()}
        weights, average, moments, _ = applied(config, weights, average, moments, ours, step)
        for name, g in to_torch(pair.network, gradient).items():
            named[name].grad = pair.torch.from_numpy(g).to(pair.device)
        twin.step()
    rows = moved_rows("weight", weights, pair.arrays(named), start, lambda n: errors.UPDATE)
    rows += moved_rows("average", average, pair.arrays(twin.average), start, lambda n: errors.UPDATE)
    pair.set(start)
    return rows


def twin_training(pair: Pair, weights: dict[str, mx.array], config: TrainConfig):
    """The twin in training, its parameters shared out between the optimizers as ours are."""
    muon = {n for n, a in weights.items() if config.optimizer == "muon" and uses_muon(n, a)}
    return twins.load().optim.Training(pair.twin, muon, config.learning_rate, config.weight_decay, config.clip,
                                       config.ema)


def applied(config: TrainConfig, weights, average, moments, gradient, step: int):
    """Our weights, average and moments after update number `step` (from 0), and the gradient's norm before
    clipping.
    """
    with eager():
        made = make_apply(config)(weights, average, moments, gradient, mx.array(config.learning_rate),
                                  mx.array(float(step + 1)), mx.array(ema.decay_at(config.ema, step)))
        mx.eval(made)
    return made


def moved_rows(what: str, ours: dict, theirs: dict, start: dict, tolerance) -> list[Row]:
    return [errors.moved(f"{what} {n}", np.array(a), theirs[n], start[n], tolerance(n))
            for n, a in ours.items()]


def training(pair: Pair, optimizer: str, count: int = 4, seed: int = 0, table=None, process: dict = PROCESS,
             steps: int = STEPS, **settings) -> list[Row]:
    """`steps` updates, each from a batch of its own: losses, gradient norms, then all weights and their
    averages.

    The weights of both are put back afterwards.
    """
    start = parameters(pair.network)
    settings = {"weight_decay": DECAY, "clip": CLIP} | settings
    learning = Learning(pair, process, optimizer=optimizer, **settings)
    config, buffers = learning.config, learning.objective.buffers
    weights = {n: mx.array(a) for n, a in start.items()}
    average, moments = dict(weights), init_moments(optimizer, weights)
    twin = twin_training(pair, weights, config)
    rows, reached = [], set(buffers)
    for step in range(steps):
        made = batch(pair.network, count, seed + step, table=table)
        loss, sums, gradient = learning.ours(weights, made)
        before = {n: weights[n] for n in buffers}
        weights, average, moments, norm = applied(config, weights, average, moments, gradient, step)
        if buffers:
            rng = np.random.default_rng([seed, 33, step])
            noise = rng.standard_normal(before["codebook"].shape, dtype=np.float32)
            moved = codebook_update(*before.values(), sums[2], sums[3], mx.array(noise))
            weights |= dict(zip(buffers, moved))
            average |= dict(zip(buffers, moved))
        their_loss = learning.theirs(made)
        theirs = their_gradients(pair)
        reached |= {n for n, g in theirs.items() if np.abs(g).max() > ROUNDING * largest(theirs)}
        if buffers:
            pair.twin.follow(pair.tensor(made.x1), pair.tensor(noise))
        rows += [row(f"loss at step {step + 1}", loss, their_loss.item(), Tolerance(1e-6, 1e-4)),
                 row(f"gradient norm at step {step + 1}", norm, twin.step().item(), Tolerance(1e-6, 1e-4))]
    state = {n: t.detach() for n, t in pair.twin.state_dict().items()}
    theirs = {"weight": pair.arrays(state), "average": pair.arrays({**state, **twin.average})}
    # Adam makes whole steps of what is rounding alone: such a parameter is anywhere within them.
    anywhere = Tolerance(2 * steps * config.learning_rate, 0.0)
    usual = errors.MOVED_BY_MUON if optimizer == "muon" else errors.MOVED

    def tolerance(name: str) -> Tolerance:
        return usual if name in reached else anywhere

    rows += moved_rows("weight", weights, theirs["weight"], start, tolerance)
    rows += moved_rows("average", average, theirs["average"], start, tolerance)
    pair.set(start)
    return rows


def sampling(pair: Pair, solver: str, guidance: float, steps: int, count: int = 4, seed: int = 0, table=None,
             process: dict = PROCESS) -> list[Row]:
    """The state after every step of a solver from the same noise, by the pipeline's loop; the last one is the
    picture.
    """
    made = batch(pair.network, count, seed, table=table)
    network, process_of_twin = pair.network, twins.load().process
    inputs = tuple(map(mx.array, made.told))
    condition = network.encode(*inputs)
    null = network.encode(*network.dropped(inputs, mx.zeros((count,), dtype=mx.bool_)))
    velocity = velocity_of(network, process, compiled=runtime.device() != "cpu")
    drawn = states(velocity, condition, null, mx.array(made.x0), steps, solver, guidance, path=path_of(process),
                   last=process["floor"])
    ours = [np.array(state.x) for state in drawn]
    twin, path = pair.twin, process_of_twin.Path(process)
    with pair.torch.no_grad():
        told = tuple(map(pair.tensor, made.told))
        guided = process_of_twin.guided(lambda x, t, c: path.velocity(twin.predict(x, t, c), x, t),
                                        twin.encode(*told), twin.null(*told), guidance)
        if solver == SHORTCUT:
            c = twin.encode(*told)
            xs = process_of_twin.jumps(lambda x, t, h: path.velocity(twin.predict(x, t, c, h), x, t),
                                       pair.tensor(made.x0), steps)
        else:
            xs = process_of_twin.trajectory(path, guided, pair.tensor(made.x0), steps, solver)
        theirs = [pair.array(x) for x in xs]
    pairs = zip(ours, theirs, strict=True)
    rows = [row(f"state {i + 1}", a, b, errors.STATE) for i, (a, b) in enumerate(pairs)]
    return [*rows[:-1], row("picture", ours[-1], theirs[-1], errors.STATE)]


def pictures_of_latents(pair: Pair, count: int = 4, seed: int = 0) -> list[Row]:
    """An autoencoder's decoder, from its own latents."""
    z = pair.network.latents(mx.array(batch(pair.network, count, seed).x1))
    ours = np.array(pair.network.pictures(z))
    with pair.torch.no_grad():
        theirs = pair.array(pair.twin.pictures(pair.tensor(np.array(z))))
    return [row("picture", ours, theirs, errors.FORWARD)]
