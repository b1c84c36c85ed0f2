"""Functions for MLX programs in C++, Swift, C or Python: a .mlxfn file holds the graph and the weights.

A velocity model's file has one function, a step of the sampler, for each batch size B in BATCHES:

    step(x, t, t_next, [vectors, mask | label], [guidance]) -> x_next, x1_estimate

    x, x_next, x1_estimate   float32 [B, S, S, C]; x starts as `noise` times standard normal numbers, at t = 0
    t, t_next                float32 []; the next step begins where this one ended, the last one has t_next = 1
    vectors, mask            float32 [B, L, E], bool [B, L]: the words of a prompt (data/words.py), text encoder included
    label                    int32 [B], for a model of classes
    guidance                 float32 []; 1 is the plain model. Not for models without condition or of few steps. By
                             words it ends where `generate` ends it (GUIDE_UNTIL): the graph sees to that.

A step is one of Heun's method and the last one goes straight to the data, or it is a few-step model's jump:
sampling/pipeline.py as a graph. `noise` and the `times` of a usual picture are in the file's metadata (JSON). An
autoencoder's decoder, decode(z `[B, s, s, c]`) -> pictures `[B, S, S, C]`, is a function of one argument: alone in an
autoencoder's file, beside the step in a latent model's. The weights stand in the file once, in the type that they
have; the arithmetic is float32's.
"""

import json
import os
from pathlib import Path

from mlxflow.runtime import mx

from mlxflow import weights  # noqa: E402
from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.flow.fewstep import jump_grid  # noqa: E402
from mlxflow.flow.guidance import extrapolate, join  # noqa: E402
from mlxflow.flow.paths import over  # noqa: E402
from mlxflow.networks.blocks import plain_operations  # noqa: E402
from mlxflow.sampling.pipeline import GUIDE_UNTIL, time_grid  # noqa: E402

BATCHES = (1, 4, 16)
# Of the grid in the metadata: what the command line draws with.
STEPS, JUMPS = 16, 4
SUFFIX = ".mlxfn"


def step_of(model: weights.Model):
    """(step, example, names): the function as in this module's first lines, arguments for a batch, and their names."""
    network, process = model.network, model.config["process"]
    path, velocity = weights.path_of(process), model.velocity(compiled=False)
    shapes = _inputs(network)
    guided = bool(shapes) and "few_step" not in process
    until = GUIDE_UNTIL if network.kind == "text-unet" else 1.0

    def step(x, t, t_next, *rest):
        inputs, h = rest[:len(shapes)], t_next - t
        condition = network.encode(*inputs)

        def slope(x, t, *h):
            t, *h = (mx.broadcast_to(a, (x.shape[0],)) for a in (t, *h))
            if not guided:
                return velocity(x, t, condition, *h)
            null = network.encode(*network.dropped(inputs, mx.zeros((x.shape[0],), dtype=mx.bool_)))
            both = velocity(mx.concatenate([x, x]), mx.concatenate([t, t]), join(condition, null))
            strong, weak = mx.split(both, 2)
            return extrapolate(weak, strong, over(mx.where(t <= until, rest[-1], 1.0), x))

        if "few_step" in process:
            jump = slope(x, t, h)
            x_next, estimate = x + h * jump, path.data_from_velocity(x, jump, t)
            return x_next, mx.where(t_next >= 1, x_next, estimate)
        first = slope(x, t)
        second = slope(x + h * first, t_next)
        estimate = path.data_from_velocity(x, first, t)
        return mx.where(t_next >= 1, estimate, x + (0.5 * h) * first + (0.5 * h) * second), estimate

    def example(batch):
        zero, told = mx.array(0.0), [mx.zeros((batch, *shape), dtype=dtype) for shape, dtype in shapes.values()]
        return mx.zeros((batch, *network.shape)), zero, zero, *told, *([zero] if guided else [])

    return step, example, ["x", "t", "t_next", *shapes, *(["guidance"] if guided else [])]


def _inputs(network) -> dict[str, tuple[tuple[int, ...], mx.Dtype]]:
    """What the network is told besides x and t: name to (shape of one, type)."""
    if network.kind == "text-unet":
        text = network.config.text
        return {"vectors": ((text.length, text.word_dim), mx.float32), "mask": ((text.length,), mx.bool_)}
    return {"label": ((), mx.int32)} if network.config.classes else {}


def decode_of(network, scale: float):
    """The same three of an autoencoder's decoder; its latents were multiplied by `scale`."""
    return lambda z: network.pictures(z / scale), lambda batch: (mx.zeros((batch, *network.latent_shape)),), ["z"]


def export(model: weights.Model, target: Path, force: bool = False) -> Path:
    """Write the functions of a model, with its arrays as they are; in a mixture the wider type computes.

    Raises MlxflowError for a target that exists, unless `force`.
    """
    from mlxflow.interop.convert import refuse

    if target.suffix.lower() != SUFFIX:
        raise MlxflowError(f"An exported function is called {SUFFIX}, not {target.name}.")
    refuse(target, force)
    functions = {}
    if hasattr(model.network, "predict"):
        functions["step"] = step_of(model)
    if not functions or model.autoencoder_path is not None:
        autoencoder, scale = _autoencoder(model)
        functions["decode"] = decode_of(autoencoder, scale)
        mx.eval(autoencoder.parameters())
    mx.eval(model.network.parameters())

    by_count = {len(names): function for function, _, names in functions.values()}
    about = {"functions": {name: names for name, (_, _, names) in functions.items()}, "batches": BATCHES,
             "config": model.config}
    if "step" in functions:
        process = model.config["process"]
        about["times"] = jump_grid(JUMPS) if "few_step" in process else time_grid(STEPS, process["floor"])
        about["noise"] = weights.path_of(process).start(mx.array(1.0)).item()
    partial = target.parent / f".partial-{os.getpid()}{SUFFIX}"
    with weights.writing(target, partial), plain_operations():
        target.parent.mkdir(parents=True, exist_ok=True)
        function = lambda *args: by_count[len(args)](*args)  # noqa: E731
        with mx.exporter(str(partial), function, metadata=json.dumps(about)) as exporter:
            for _, example, _ in functions.values():
                for batch in BATCHES:
                    exporter(*example(batch))
        with open(partial, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(partial, target)
    return target


def _autoencoder(model: weights.Model):
    if model.autoencoder_path is None:
        return model.network, model.config.get("scale", 1.0)
    loaded = weights.load(model.autoencoder_path)
    return loaded.network, model.config["autoencoder"]["scale"]
