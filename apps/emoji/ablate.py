"""Settings of the emoji model compared at equal wall-clock time, each a run from nothing beside the taught text.

    python apps/emoji/ablate.py emoji/ runs/ablate --minutes 5 [--only NAME ...]

Every row changes one thing of the base (`recipe.toml` with batches that two slow cores can do). Runs follow each other,
so keep the machine as busy, or as idle, throughout. `val` and `seen` are the validation losses of the averaged weights
(ten time bins, fixed noise, whatever the network predicts) on held-out variants and on 64 training pictures; the first
bin, t < 0.1, is where the words decide what the picture is. Started again, it goes on with the runs that are missing;
the table goes to standard output.
"""

import argparse
import sys
from pathlib import Path

from mlxflow.runtime import mx

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiment import position, recipe_values, speed, table  # noqa: E402

from mlxflow.training.config import from_values  # noqa: E402
from mlxflow.training.start import open_data, start  # noqa: E402
from mlxflow.training.state import checkpoints  # noqa: E402
from mlxflow.training.validation import validation_loss  # noqa: E402
from mlxflow.weights import load  # noqa: E402

RECIPE = Path(__file__).with_name("recipe.toml")
BASE = {"batch": 32, "learning_rate": 4e-4, "schedule": "constant", "steps": 0, "warmup": 50, "compose": 0.1,
        "log_every": 20, "sample_every": 0, "validate_every": 0, "checkpoint_every": 100_000}
CHANGES = {
    "base: batch 32, AdamW 4e-4, data prediction": {},
    "velocity prediction": {"prediction": "velocity"},
    "times logit-normal(0, 1)": {"times_mean": 0.0, "times_std": 1.0},
    "times uniform": {"times": "uniform"},
    "Muon, 4e-4": {"optimizer": "muon"},
    "Muon, 1e-3": {"optimizer": "muon", "learning_rate": 1e-3},
    "AdamW, 2e-4": {"learning_rate": 2e-4},
    "AdamW, 1e-3": {"learning_rate": 1e-3},
    "batch 16": {"batch": 16},
    "batch 64": {"batch": 64},
    "batch 64, AdamW 1e-3": {"batch": 64, "learning_rate": 1e-3},
    "contrastive term 0.05": {"contrast": 0.05},
    "no compositions": {"compose": 0.0},
    "compositions 0.25": {"compose": 0.25},
    "widths 96, 128, 160, blocks 2, 2, 1 (4,681,964)": {"unet": {"widths": [96, 128, 160], "blocks": [2, 2, 1]}},
    "widths 64, 96, 192, blocks 2, 3, 1 (4,499,148)": {"unet": {"widths": [64, 96, 192], "blocks": [2, 3, 1]}},
    "two levels, widths 96, 192, blocks 1, 2 (4,469,452)": {
        "unet": {"widths": [96, 192], "blocks": [1, 2], "attention": [0, 1]}},
}


def settings_of(change: dict) -> dict:
    """The base with one change; `unet` goes into the model."""
    values = recipe_values(RECIPE) | BASE
    model = values["model"]
    change = dict(change)
    unet = model["unet"] | change.pop("unet", {})
    return values | change | {"model": model | {"unet": unet}}


def losses(run: Path, data: Path, settings: dict) -> dict[str, float]:
    """Validation losses by set, of the averaged weights and, as "raw val", of the last ones."""
    config = from_values(settings, "ablation")
    dataset, _ = open_data(config, data, run, None)
    newest, made = checkpoints(run)[-1], {}
    for kind, file in (("", "ema.safetensors"), ("raw ", "model.safetensors")):
        predict = mx.compile(load(newest / file).network)
        for name, part in dataset.fixed.items():
            found = validation_loss(predict, config.process(), *part)
            made |= {kind + name: found["loss"], kind + name + " at first": found["bins"][0]}
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--init", default="emoji", help="weights whose text is taken")
    parser.add_argument("--only", nargs="*", default=[], help="rows whose names contain one of these")
    options = parser.parse_args()
    rows = []
    for i, (name, change) in enumerate(CHANGES.items()):
        if options.only and not any(part in name for part in options.only):
            continue
        run, settings = options.folder / f"{i:02d}", settings_of(change) | {"minutes": options.minutes}
        if not position(run)["step"]:
            start(run, data=options.data, flags=settings, init=Path(options.init), force=True)
        found = losses(run, options.data, settings)
        rows.append([name, position(run)["images"], speed(run),
                     *(found[n] for n in ("val", "val at first", "raw val", "seen", "seen at first"))])
        print(f"{name}: {rows[-1][1:]}", file=sys.stderr, flush=True)
    print(table(["", "pictures", "pictures/s", "val", "val, t < 0.1", "val, last weights", "seen", "seen, t < 0.1"], rows))


if __name__ == "__main__":
    main()
