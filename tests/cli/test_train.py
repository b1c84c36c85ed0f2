"""`mlxflow train` and `distill` hand every option on: a flag that is parsed and lost trains something else in
silence."""

import inspect
from pathlib import Path

import pytest

from mlxflow.cli.main import _load
from mlxflow.training.config import TrainConfig

PACKAGE = Path(__file__).parents[2] / "mlxflow"
# Each option at a value that is not its default; a zero is a value, too.
COMMON = {
    "data": "pictures",
    "config": "recipe.toml",
    "resume": None,
    "force": None,
    "steps": 7,
    "minutes": 0.0,
    "batch": 6,
    "learning_rate": 0.5,
    "seed": 0,
}
TRAIN = COMMON | {"init": "old", "epochs": 1.5, "optimizer": "muon"}
DISTILL = COMMON | {"guidance": 0.0}


def called_with(monkeypatch, command, arguments):
    """What training.start.start was given."""
    from mlxflow.training import start

    seen = {}

    def instead(run, **given):
        seen.update(given, run=run)

    monkeypatch.setattr(start, "start", instead)
    _load(command).main(arguments, prog_name=f"mlxflow {command}", standalone_mode=False)
    return seen


@pytest.mark.parametrize(
    "command, options, own", [("train", TRAIN, {}), ("distill", DISTILL, {"teacher": "model"})]
)
def test_every_option_arrives(monkeypatch, command, options, own):
    arguments = ["model"] if own else []
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}"] + ([] if value is None else [str(value)])
    seen = called_with(
        monkeypatch, command, [*arguments, "--run", "there", "--set", "warmup=3", "--set", "optimizer=muon"]
    )
    expected = {
        n: options[n]
        for n in ("steps", "epochs", "minutes", "batch", "learning_rate", "seed", "optimizer", "guidance")
        if n in options
    }
    assert seen["flags"] == expected | own | {"warmup": 3, "optimizer": "muon"}
    assert (seen["run"], seen["data"], seen["recipe"]) == (
        Path("there"),
        Path("pictures"),
        Path("recipe.toml"),
    )
    assert seen["resume"] is True and seen["force"] is True
    if "init" in options:
        assert seen["init"] == Path("old")
    # None was forgotten here.
    module = __import__(f"mlxflow.cli.{command}", fromlist=[command])
    parameters = set(inspect.signature(getattr(module, command)).parameters)
    assert parameters - set(options) - {"report"} == {"run", "settings", "ranks", "device"} | (
        {"weights"} if own else set()
    )


def test_what_is_not_given_is_left_to_the_recipe(monkeypatch):
    assert called_with(monkeypatch, "train", ["--data", "pictures"])["flags"] == {}


@pytest.mark.parametrize("name", TrainConfig.__dataclass_fields__)
def test_every_setting_is_used_somewhere(name):
    sources = [f.read_text() for f in PACKAGE.rglob("*.py") if f.name != "config.py"]
    own = (PACKAGE / "training" / "config.py").read_text().split("def process")[1]
    assert (
        any(f"config.{name}" in text or f"training.{name}" in text for text in sources)
        or f"self.{name}" in own
    )
