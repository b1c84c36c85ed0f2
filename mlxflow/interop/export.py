"""Functions for MLX programs in C++, Swift, C or Python: a .mlxfn file holds the graph and the weights.

A velocity model's file has one function, a step of the sampler, for each batch size B in BATCHES:

    step(x, t, t_next, [vectors, mask | label], [guidance]) -> x_next, x1_estimate

    x, x_next, x1_estimate   float32 [B, S, S, C]; x starts as standard normal noise, at t = 0
    t, t_next                float32 []; the next step begins where this one ended, the last one has t_next = 1
    vectors, mask            float32 [B, L, E], bool [B, L]: the words of a prompt (data/words.py), text encoder included
    label                    int32 [B], for a model of classes
    guidance                 float32 []; 1 is the plain model. A model without condition takes none of these.

A step is one of Heun's method, the last one goes straight to the data: sampling/pipeline.py as a graph, whose
`time_grid` is in the file's metadata (JSON). An autoencoder's decoder, decode(z `[B, s, s, c]`) -> pictures
`[B, S, S, C]`, is a function of one argument: alone in an autoencoder's file, beside the step in a latent model's.
The weights stand in the file once, in the type that they have; the arithmetic is float32's.
"""

import json
import os
from pathlib import Path

from mlxflow.runtime import mx

from mlxflow import weights  # noqa: E402
from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.flow.guidance import extrapolate, join  # noqa: E402
from mlxflow.networks.blocks import plain_operations  # noqa: E402
from mlxflow.sampling.pipeline import time_grid  # noqa: E402

BATCHES = (1, 4, 16)
STEPS = 16
SUFFIX = ".mlxfn"


def step_of(model: weights.Model):
    """step(x, t, t_next, *inputs, guidance) as in this module's first lines, and example inputs(batch) for it."""
    network, process = model.network, model.config["process"]
    path, velocity = weights.path_of(process), model.velocity(compiled=False)
    shapes = _inputs(network)

    def slope(x, t, conditions, guidance):
        time = mx.broadcast_to(t, (x.shape[0],))
        if guidance is None:
            return velocity(x, time, conditions[0])
        both = velocity(mx.concatenate([x, x]), mx.concatenate([time, time]), join(*conditions))
        strong, weak = mx.split(both, 2)
        return extrapolate(weak, strong, guidance)

    def step(x, t, t_next, *rest):
        inputs, guidance = (rest[:-1], rest[-1]) if shapes else ((), None)
        conditions = [network.encode(*inputs)]
        if shapes:
            nobody = mx.zeros((x.shape[0],), dtype=mx.bool_)
            conditions.append(network.encode(*network.dropped(inputs, nobody)))
        h = t_next - t
        first = slope(x, t, conditions, guidance)
        estimate = path.data_from_velocity(x, first, t)
        second = slope(x + h * first, t_next, conditions, guidance)
        heun = x + (0.5 * h) * first + (0.5 * h) * second
        return mx.where(t_next >= 1, estimate, heun), estimate

    def example(batch):
        given = [mx.zeros((batch, *shape), dtype=dtype) for shape, dtype in shapes.values()]
        zero = mx.array(0.0)
        return mx.zeros((batch, *network.shape)), zero, zero, *given, *([zero] if shapes else [])

    return step, example


def _inputs(network) -> dict[str, tuple[tuple[int, ...], mx.Dtype]]:
    """What the network is told besides x and t: name to (shape of one, type)."""
    if network.kind == "text-unet":
        text = network.config.text
        return {"vectors": ((text.length, text.word_dim), mx.float32), "mask": ((text.length,), mx.bool_)}
    return {"label": ((), mx.int32)} if network.config.classes else {}


def decode_of(network, scale: float):
    """decode(z) of an autoencoder whose latents were multiplied by `scale`, and example inputs(batch)."""
    return lambda z: network.pictures(z / scale), lambda batch: (mx.zeros((batch, *network.latent_shape)),)


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
        step, example = step_of(model)
        names = ["x", "t", "t_next", *_inputs(model.network)]
        functions["step"] = (step, example, names + ["guidance"] if len(names) > 3 else names)
    if not functions or model.autoencoder_path is not None:
        autoencoder, scale = _autoencoder(model)
        functions["decode"] = (*decode_of(autoencoder, scale), ["z"])
        mx.eval(autoencoder.parameters())
    mx.eval(model.network.parameters())

    by_count = {len(names): function for function, _, names in functions.values()}
    about = {"functions": {name: names for name, (_, _, names) in functions.items()}, "batches": BATCHES,
             "config": model.config}
    if "step" in functions:
        about["times"] = time_grid(STEPS, model.config["process"]["floor"])
    partial = target.parent / f".partial-{os.getpid()}{SUFFIX}"
    with weights.writing(target, partial), plain_operations():
        target.parent.mkdir(parents=True, exist_ok=True)
        with mx.exporter(str(partial), lambda *args: by_count[len(args)](*args), metadata=json.dumps(about)) as exporter:
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
