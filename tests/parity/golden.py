"""Golden tensors: what the PyTorch twin of each shipped model computes, kept in tests/parity/golden/NAME.npz.

    python -m tests.parity.golden        (or `make golden`; needs PyTorch) after the weights have changed

They let `make test` check the shipped weights where there is no PyTorch. A file holds inputs, the outputs of
a few modules, and pictures at the end of the default sampler, each with the absolute tolerance that it is
compared with.
"""

import json
import os
import sys
from pathlib import Path

from mlxflow.runtime import mx

import numpy as np  # noqa: E402

from mlxflow import paths, weights  # noqa: E402
from mlxflow.data.words import WordTable  # noqa: E402
from mlxflow.parity import checks, twins  # noqa: E402
from mlxflow.parity.inputs import Batch, batch, forward_inputs  # noqa: E402
from mlxflow.parity.pair import Pair, Stages, trace_network  # noqa: E402
from mlxflow.sampling.pipeline import SHORTCUT, states  # noqa: E402

FOLDER = Path(__file__).with_name("golden")
# Of the modules: the picture, what is said of the prompt, and one output a level; the largest ones would fill
# the file.
LARGEST = 20_000
RELATIVE, PICTURE = 1e-4, 1e-3


def shipped() -> list[str]:
    return sorted(file.parent.name for file in paths.weights_dir().glob(f"*/{weights.MODEL}"))


def settings_of(process: dict) -> tuple[str, int, float]:
    """Solver, steps and guidance of the pictures: the defaults of the kind of model."""
    return (SHORTCUT, 4, 1.0) if "few_step" in process else ("heun", 16, 3.0)


def selected(stages: Stages) -> list[str]:
    """The modules whose outputs are kept: levels and blocks that stand directly in the network, and the
    output itself.
    """
    direct = [s for s in stages if s.count(".") <= 2 and stages[s].size <= LARGEST and not s.endswith(")")]
    blocks = [s for s in direct if s.split(".")[-1].isdigit() and any(o.startswith(f"{s}.") for o in stages)]
    told = [s for s in direct if s in ("text.tokens", "text.pooled", "text.sketch")]
    return [*blocks, *told, "output"]


def make_inputs(model: weights.Model) -> Batch:
    """Two samples; noise and pictures are rounded to what float16 holds, to keep the file small."""
    table = WordTable.load(model.words_path) if model.words_path else None
    made = batch(model.network, 2, seed=7, table=table)
    short = lambda a: a.astype(np.float16).astype(np.float32)
    return made._replace(x0=short(made.x0), x1=short(made.x1))


def first(made: Batch) -> Batch:
    return Batch(made.x0[:1], made.x1[:1], made.t[:1], tuple(a[:1] for a in made.told))


def pictures(model: weights.Model, made: Batch) -> np.ndarray:
    """Ours: what the pipeline draws from the noise `made.x0`; of an autoencoder, the reconstruction."""
    network, process = model.network, model.config["process"]
    if not checks.is_velocity(network):
        return np.array(network.pictures(network.latents(mx.array(made.x1))))
    solver, steps, guidance = settings_of(process)
    told = tuple(map(mx.array, made.told))
    null = network.encode(*network.dropped(told, mx.zeros((len(made.t),), dtype=mx.bool_)))
    for state in states(model.velocity(compiled=False), network.encode(*told), null, mx.array(made.x0), steps, solver,
                        guidance if told else 1.0, path=weights.path_of(process), last=process["floor"]):
        pass
    return np.array(state.x)


def twin_pictures(pair: Pair, process: dict, made: Batch) -> np.ndarray:
    """The twin's."""
    twin, torch_process = pair.twin, twins.load().process
    with pair.torch.no_grad():
        if not checks.is_velocity(pair.network):
            x = pair.tensor(made.x1)
            latents = twin.encode(x)[0] if pair.kind == "kl-vae" else twin.encoder(x)
            return pair.array(twin.pictures(latents))
        solver, steps, guidance = settings_of(process)
        path, told = torch_process.Path(process), tuple(map(pair.tensor, made.told))
        c, null, noise = twin.encode(*told), twin.null(*told), pair.tensor(made.x0)
        if solver == SHORTCUT:
            xs = torch_process.jumps(lambda x, t, h: path.velocity(twin.predict(x, t, c, h), x, t), noise, steps)
        else:
            guided = torch_process.guided(lambda x, t, c: path.velocity(twin.predict(x, t, c), x, t), c, null,
                                          guidance if told else 1.0)
            xs = torch_process.trajectory(path, guided, noise, steps, solver)
        *_, last = xs
    return pair.array(last)


def make(name: str) -> Path:
    """Writes the golden file of the shipped model `name`."""
    model = weights.load(paths.weights_dir() / name, dtype=mx.float32)
    pair, made = Pair(model.network), make_inputs(model)
    _, stages = pair.forward(*forward_inputs(model.network, first(made)))
    outputs = {f"stage {s}": stages[s].astype(np.float32) for s in selected(stages)}
    outputs["pictures"] = twin_pictures(pair, model.config["process"], made)
    tolerances = {n: float(f"{RELATIVE * np.abs(a).max() + 1e-6:.2g}") for n, a in outputs.items()}
    tolerances["pictures"] = PICTURE
    about = {"weights": weights.file_sha256(model.source), "torch": pair.torch.__version__, "tolerances": tolerances}
    inputs = {"x0": made.x0.astype(np.float16), "x1": made.x1.astype(np.float16), "t": made.t}
    inputs |= {f"told {i}": a for i, a in enumerate(made.told)}
    FOLDER.mkdir(exist_ok=True)
    file, partial = FOLDER / f"{name}.npz", FOLDER / f".partial-{os.getpid()}.npz"
    np.savez_compressed(partial, about=json.dumps(about), **inputs, **outputs)
    os.replace(partial, file)
    return file


class Golden:
    """A golden file that was read."""

    def __init__(self, name: str):
        with np.load(FOLDER / f"{name}.npz") as file:
            arrays = dict(file)
        self.about = json.loads(str(arrays.pop("about")))
        self.tolerances: dict[str, float] = self.about["tolerances"]
        told = tuple(arrays[f"told {i}"] for i in range(sum(n.startswith("told ") for n in arrays)))
        self.inputs = Batch(arrays["x0"].astype(np.float32), arrays["x1"].astype(np.float32), arrays["t"], told)
        self.outputs = {n: arrays[n] for n in self.tolerances}

    def ours(self, model: weights.Model) -> dict[str, np.ndarray]:
        """What MLX computes from the same inputs, by the same names."""
        with trace_network(model.network) as stages:
            output = model.network(*map(mx.array, forward_inputs(model.network, first(self.inputs))))
        stages["output"] = np.array(output[0] if isinstance(output, tuple) else output)
        made = {n: stages[n.removeprefix("stage ")] for n in self.outputs if n != "pictures"}
        return made | {"pictures": pictures(model, self.inputs)}


def main() -> None:
    for name in sys.argv[1:] or shipped():
        file = make(name)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
