"""Few-step models: a trained model's field, with its guidance built in, learnt as a shortcut model
(flow/fewstep.py).

The student is the teacher's network with the step size as one more input and starts from the teacher's
weights. Half of a batch (its even places) asks for the teacher's guided velocity at a step of 0, half for two
jumps in one. So one call a step replaces the two of classifier-free guidance, and 1 to 4 steps replace 16.
What teacher and student share (network, path, prediction, autoencoder, words) is the teacher's; how the data
are drawn is, too, where the teacher is a run that says so, unless a setting is given.
"""

from pathlib import Path
from typing import Any

from mlxflow.runtime import mx

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_map, tree_unflatten  # noqa: E402

from mlxflow import weights  # noqa: E402
from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.flow import fewstep  # noqa: E402
from mlxflow.flow.guidance import classifier_free  # noqa: E402
from mlxflow.flow.losses import weight  # noqa: E402
from mlxflow.networks import few_step  # noqa: E402
from mlxflow.training.config import TrainConfig  # noqa: E402
from mlxflow.training.objective import cast, key_for, make_draws, precision_of  # noqa: E402
from mlxflow.sampling.pipeline import GUIDE_UNTIL, SHORTCUT, sample  # noqa: E402
from mlxflow.weights import path_of, velocity_of  # noqa: E402

TEACHER = "teacher.safetensors"
GUIDANCE, LEARNING_RATE, WARMUP = 3.0, 3e-4, 100
_SHARED, _OWN, _JUMPS = 15, 16, 17
# Pictures whose few-step versions are compared with the teacher's own, and the teacher's steps.
JUDGED, TEACHER_STEPS = 32, 16
# Numbers of steps that validation and sample sheets show.
SHOWN = (1, 2, 4)
SHEET = (1, 4)
# Settings that a teacher's run hands on.
_HANDED_ON = (
    "batch",
    "name_share",
    "shift",
    "scale",
    "flip",
    "drop",
    "times",
    "times_mean",
    "times_std",
    "weight_cap",
    "optimizer",
    "precision",
    "prompts",
)


def settled(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a distillation: `values`, which name the `teacher`, and what follows from it.

    Raises MlxflowError for a teacher that cannot be distilled, or a setting that the teacher settles
    otherwise.
    """
    file = weights.resolve(values["teacher"])
    config = weights.read_config(file)
    network, process = weights.build_from(config, file), config["process"]
    if not hasattr(network, "predict"):
        raise MlxflowError(f"{file} is an autoencoder: a model that draws is needed.")
    if "quantization" in config:
        raise MlxflowError(f"{file} is quantised: give the weights that it was made of.")
    if "few_step" in process:
        raise MlxflowError(f"{file} draws in few steps already: give the model that it was made from.")
    if process["prediction"] == "noise" or process["prediction"] == "data" and process["path"] != "condot":
        raise MlxflowError(
            f"{file} predicts {process['prediction']} on the path {process['path']}, which says too little "
            "of a long step: train a model to predict velocity, or data on the condot path."
        )
    theirs = {
        "model": few_step(config["model"]),
        "path": process["path"],
        "prediction": process["prediction"],
        "sigma_min": process.get("sigma_min", 0.0),
        "floor": 1 - fewstep.LATEST,
        "autoencoder": "",
    }
    if "autoencoder" in config:
        theirs["autoencoder"] = str(weights.find_autoencoder(file, config))
    other = [name for name, value in theirs.items() if name in values and values[name] != value]
    if other:
        raise MlxflowError(f"The teacher settles {', '.join(other)}: leave it out.")
    own = {
        "learning_rate": LEARNING_RATE,
        "warmup": WARMUP,
        "guidance": GUIDANCE if conditional(config) else 1.0,
        "guide_until": GUIDE_UNTIL if config.get("words") else 1.0,
    }
    if network.kind != "text-unet":
        # What a run on classes would do; the defaults of TrainConfig are for words.
        own |= {"shift": 0}
    return own | handed_on(file) | theirs | values


def conditional(config: dict) -> bool:
    """Whether a model is told words or classes."""
    return bool(config.get("words") or config.get("classes"))


def handed_on(file: Path) -> dict[str, Any]:
    """What the run that wrote these weights says of its data; {} when they are in no run folder."""
    from mlxflow.training.start import read_run

    stored = read_run(file.parents[2]) if file.parent.parent.name == "checkpoints" else None
    trained = stored.get("train") if isinstance(stored, dict) else None
    return (
        {name: trained[name] for name in _HANDED_ON if name in trained} if isinstance(trained, dict) else {}
    )


class FewStep:
    """x_t at (t, 0) -> the teacher's velocity;  x_t at (t, h) -> the mean of two jumps of h / 2."""

    buffers = ()

    def __init__(
        self, config: TrainConfig, network: nn.Module, data, rank: int, size: int, teacher: weights.Model
    ):
        if config.batch % (2 * size * config.accumulate):
            raise MlxflowError(
                f"batch {config.batch} cannot be halved between field and jumps on {size} ranks with "
                f"{config.accumulate} micro-batches: choose a multiple of {2 * size * config.accumulate}."
            )
        if config.guidance != 1 and not conditional(teacher.config):
            raise MlxflowError("The teacher is told neither words nor classes: set the guidance to 1.")
        if teacher.config.get("classes") != data.stamp.get("classes"):
            raise MlxflowError(
                f"The teacher's classes are {teacher.config.get('classes')}, those of the pictures are "
                f"{data.stamp.get('classes')}: give the pictures that it was trained on."
            )
        self.config, self.network, self.data, self.rank, self.teacher = config, network, data, rank, teacher
        shared = config.process()
        self.process = shared | {"few_step": {"guidance": config.guidance}}
        self.path = path_of(shared)
        self.draws = make_draws(config, rank, size, config.batch // size, data.shape)
        # No step begins so late that the teacher's own, larger floor were needed.
        self.velocity = velocity_of(teacher.network, shared)
        self.dtype = precision_of(config)
        self.judged = None

    def field(self, inputs: tuple[mx.array, ...]):
        """The teacher's guided velocity(x, t) for a batch of inputs."""
        network = self.teacher.network
        nothing = mx.zeros((len(inputs[0]) if inputs else 1,), dtype=mx.bool_)
        null = network.encode(*network.dropped(inputs, nothing))
        return classifier_free(self.velocity, network.encode(*inputs), null, self.config.guidance,
                               interval=(0.0, self.config.guide_until))

    def arrays(self, batch, step):
        images, *inputs = batch
        t, x0, keep = self.draws(
            key_for(self.config.seed, _SHARED, step), key_for(self.config.seed, _OWN, step, self.rank)
        )
        inputs = self.network.dropped(tuple(map(mx.array, inputs)), keep)
        starts, h = fewstep.draw_steps(key_for(self.config.seed, _JUMPS, step, self.rank), len(images) // 2)
        t = alternate(mx.minimum(t[::2], fewstep.LATEST), starts)
        x = self.path.sample(x0, mx.array(images), t)
        v = self.field(tuple(i[::2] for i in inputs))(x[::2], t[::2])
        mx.eval(x, t, h, v)
        return x, t, h, v, *inputs

    def loss(self, weights, x, t, h, v, *inputs):
        """x, t and inputs of b samples; h and v of b / 2: the steps of the odd ones, the velocity of the even
        ones."""
        prediction, floor = self.config.prediction, self.config.floor
        if self.dtype != mx.float32:
            weights = {n: w.astype(self.dtype) for n, w in weights.items()}
            inputs = [cast(i, self.dtype) for i in inputs]
        self.network.update(tree_unflatten(list(weights.items())))
        condition = self.network.encode(*inputs)
        of_jumps = tree_map(lambda c: c[1::2], condition)

        def predict(x, t, condition, h):
            return self.network.predict(x.astype(self.dtype), t, condition, h).astype(mx.float32)

        def average(x, t, h):
            return self.path.convert(x, predict(x, t, of_jumps, h), t, prediction, "velocity", floor)

        u = alternate(v, fewstep.two_halves(average, x[1::2], t[1::2], h))
        steps = alternate(mx.zeros_like(h), h)
        error = predict(x, t, condition, steps) - self.path.convert(x, u, t, "velocity", prediction)
        losses = weight(prediction, self.path, t, self.config.weight_cap) * mx.square(error).mean(
            tuple(range(1, x.ndim))
        )
        lengths = mx.array([0.0] + [2.0**-k for k in range(fewstep.LEVELS)])
        member = (steps[:, None] == lengths).astype(mx.float32)
        return losses.mean(), [losses @ member, member.sum(0)]

    def settle(self, before, sums, step):
        return {}

    def entries(self, sums):
        """Mean loss of the field and of the steps 1, 1/2, 1/4, ..."""
        field, *jumps = (round(float(s / c), 5) if c else None for s, c in zip(*sums))
        return {"field": field, "jumps": jumps}

    def jumped(
        self, network: nn.Module, inputs: tuple[mx.array, ...], noise: mx.array, steps: int
    ) -> mx.array:
        condition = network.encode(*inputs)
        return sample(
            velocity_of(network, self.process),
            condition,
            condition,
            noise,
            steps,
            SHORTCUT,
            1.0,
            path=self.path,
        )

    def noise(self, count: int) -> mx.array:
        return mx.array(
            np.random.default_rng([0, 8]).standard_normal((count, *self.data.shape), dtype=np.float32)
        )

    def validate(self, network):
        """Squared distance of pictures in 1, 2 and 4 steps from the teacher's in TEACHER_STEPS steps of heun,
        from the same noise; "loss" is their mean. The median over the pictures: between two outcomes a
        trajectory turns on nothing, and a few that end elsewhere would drown the rest."""
        part = next(iter(self.data.fixed.values()))
        inputs = tuple(mx.array(values[:JUDGED]) for values in part[1:])
        noise = self.noise(len(part[0][:JUDGED]))
        if self.judged is None:
            field = self.field(inputs)
            self.judged = sample(
                lambda x, t, _: field(x, t),
                (),
                (),
                noise,
                TEACHER_STEPS,
                "heun",
                1.0,
                path=self.path,
                last=self.config.floor,
            )
        found = {}
        for steps in SHOWN:
            difference = np.array(self.jumped(network, inputs, noise, steps) - self.judged)
            found[str(steps)] = float(
                np.median(np.square(difference).reshape(len(difference), -1).mean(axis=1))
            )
        return {"teacher": {"loss": float(np.mean(list(found.values()))), "steps": found}}

    def sheet(self, network):
        """The examples in one step, and below them in four."""
        from mlxflow.sampling.output import grid

        inputs, captions, count, columns = self.data.examples(self.config)
        made = [
            np.array(self.jumped(network, tuple(map(mx.array, inputs)), self.noise(count), steps))
            for steps in SHEET
        ]
        names = captions or [""] * count
        titles = [
            f"{name} ({steps} step{'s' if steps > 1 else ''})".strip() for steps in SHEET for name in names
        ]
        return grid(np.concatenate([self.data.pictures(part) for part in made]), columns, titles)


def alternate(even: mx.array, odd: mx.array) -> mx.array:
    """Two arrays `[b, ...]` as the even and odd places of one, `[2 b, ...]`."""
    return mx.stack([even, odd], axis=1).reshape(-1, *even.shape[1:])
