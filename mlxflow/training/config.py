"""What a training run is: a frozen dataclass, a TOML recipe of the same fields, and flags that override both."""

import dataclasses
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mlxflow.errors import MlxflowError
from mlxflow.flow.couplings import NAMES as COUPLINGS
from mlxflow.flow.paths import path_by_name
from mlxflow.flow.times import TIMES


def option(default: Any, help: str):
    """A field and what it means."""
    factory = {"default_factory": default} if callable(default) else {"default": default}
    return field(**factory, metadata={"help": help})


def default_model() -> dict:
    return {"kind": "text-unet", "text": {}, "unet": {}}


@dataclass(frozen=True)
class TrainConfig:
    """One run. Everything random in it follows from `seed` and the step, so two runs of one config are one run."""

    model: dict = option(default_model, "network kind and sizes")
    # process
    path: str = option("condot", "probability path")
    sigma_min: float = option(0.0, "noise that is left at the data end of the condot path")
    prediction: str = option("data", "what the network predicts: data, velocity or noise")
    floor: float = option(0.05, "least divisor 1 - t when data prediction becomes a velocity")
    weight_cap: float = option(5.0, "cap of the loss weight 1 / (1 - t)^2")
    times: str = option("logit_normal", "distribution of training times")
    times_mean: float = option(0.0, "mean of the logit-normal; above 0 is towards the data")
    times_std: float = option(1.0, "standard deviation of the logit-normal")
    kl_weight: float = option(1e-3, "weight of a KL-VAE's KL, against the squared error of all numbers together")
    commitment: float = option(0.25, "weight of a VQ-VAE's commitment to its codes")
    coupling: str = option("independent", "which noise goes with which picture of a batch: independent or, without "
                           "words and classes, ot")
    contrast: float = option(0.0, "weight of the contrastive flow-matching term")
    drop: float = option(0.1, "share of prompts or labels dropped, for guidance")
    teacher: str = option("", "weights of a trained model that this one learns to equal in few steps; a run folder will do")
    guidance: float = option(1.0, "guidance of the teacher, built into what is learnt from it")
    guide_until: float = option(1.0, "time at which the teacher's guidance ends")
    # data
    autoencoder: str = option("", "weights of an autoencoder whose latent space to train in; a run folder will do")
    batch: int = option(64, "images a step, over all ranks")
    name_share: float = option(0.3, "how often the caption is the name rather than one of the other texts")
    shift: int = option(1, "largest random shift, in pixels")
    scale: float = option(0.0, "largest random change of size, as a fraction")
    flip: float = option(0.0, "chance of a horizontal flip, where the caption allows it")
    rehearsal: float = option(0.0, "share of each batch that is the embedded emoji, so that fine-tuning does not forget")
    compose: float = option(0.0, "share of pictures that are compositions of others (data/compose.py)")
    variants: float = option(0.0, "a thing with k variants (skin tones) is drawn k^variants times as often as one without")
    workers: int = option(0, "processes that make the batches (0: a thread of this one); for a GPU that is faster than "
                          "one Python")
    # optimisation
    optimizer: str = option("adamw", "adamw or muon")
    learning_rate: float = option(1e-3, "peak learning rate")
    weight_decay: float = option(0.01, "decoupled weight decay")
    warmup: int = option(500, "steps of linear warm-up")
    schedule: str = option("constant", "after warm-up: constant or cosine (to a tenth, over the run's steps)")
    inherit: str = option("", "what --init gives: parameters whose names begin so, such as text. (empty: all)")
    frozen: str = option("", "parameters whose names begin so stay as they are, such as text.")
    clip: float = option(1.0, "largest gradient norm")
    accumulate: int = option(1, "micro-batches a step")
    recompute: bool = option(False, "forget the inside of blocks and compute it again for gradients: less memory")
    precision: str = option("float32", "float32, bfloat16, or auto: bfloat16 on Metal and CUDA, float32 on the CPU")
    ema: float = option(0.9999, "decay of the weights' running average, reached through a warm-up")
    seed: int = option(0, "everything random follows from it")
    # length and reports
    steps: int = option(0, "stop at this step (0: no limit)")
    epochs: float = option(0.0, "stop after so many passes over the data (0: no limit)")
    minutes: float = option(0.0, "stop after so many minutes (0: no limit)")
    log_every: int = option(50, "steps between reports")
    sample_every: int = option(1000, "steps between sample grids (0: none)")
    validate_every: int = option(1000, "steps between validations (0: none)")
    checkpoint_every: int = option(1000, "steps between checkpoints")
    keep: int = option(3, "checkpoints kept")
    prompts: tuple[str, ...] = option(
        ("grinning face", "smiling cat", "red heart", "pizza", "rocket", "squirrel", "bicycle", "ferris wheel",
         "crying face", "birthday cake", "blue apple", "cat wearing sunglasses", "flag: Japan",
         "woman firefighter: dark skin tone", "palm tree on a beach", "robot"),
        "prompts of the sample grids")

    def __post_init__(self):
        object.__setattr__(self, "prompts", tuple(self.prompts))
        positive = ("batch", "learning_rate", "clip", "accumulate", "log_every", "checkpoint_every", "keep", "times_std",
                    "floor", "weight_cap")
        for name in positive:
            if not getattr(self, name) > 0:
                raise MlxflowError(f"{name} must be more than 0, not {getattr(self, name)}.")
        for name in ("steps", "epochs", "minutes", "warmup", "weight_decay", "contrast", "shift", "seed", "kl_weight",
                     "commitment", "guidance", "workers", "sample_every", "validate_every"):
            if not getattr(self, name) >= 0:
                raise MlxflowError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        for name in ("drop", "flip", "name_share", "compose", "rehearsal", "ema", "guide_until", "variants"):
            if not 0 <= getattr(self, name) <= 1:
                raise MlxflowError(f"{name} must be between 0 and 1, not {getattr(self, name)}.")
        if not 0 <= self.scale < 0.5:
            raise MlxflowError(f"scale must be at least 0 and below 0.5, not {self.scale}.")
        choices = {"optimizer": ("adamw", "muon"), "schedule": ("constant", "cosine"),
                   "prediction": ("data", "velocity", "noise"), "precision": ("float32", "bfloat16", "auto"),
                   "coupling": COUPLINGS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise MlxflowError(f"{name} must be {' or '.join(allowed)}, not '{getattr(self, name)}'.")
        if self.times not in TIMES:
            raise MlxflowError(f"times must be {' or '.join(TIMES)}, not '{self.times}'.")
        path_by_name(self.path, **({"sigma_min": self.sigma_min} if self.sigma_min else {}))
        if not 0 <= self.sigma_min < 1:
            raise MlxflowError(f"sigma_min must be at least 0 and below 1, not {self.sigma_min}.")
        if self.schedule == "cosine" and not self.steps:
            raise MlxflowError("The cosine schedule needs --steps: it falls over the whole run.")

    def process(self) -> dict[str, Any]:
        """What the weights' config says of how to sample."""
        made = {"path": self.path, "prediction": self.prediction, "floor": self.floor}
        made |= {"sigma_min": self.sigma_min} if self.sigma_min else {}
        return made | ({"few_step": {"guidance": self.guidance}} if self.teacher else {})

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> "TrainConfig":
        return from_values({**self.to_dict(), **changes}, "options")


def from_values(values: dict[str, Any], source: str) -> TrainConfig:
    """A config from plain values (JSON, TOML, flags); unknown names and wrong types are refused with a sentence."""
    known = {f.name: f for f in fields(TrainConfig)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise MlxflowError(f"{source}: there is no setting called {', '.join(unknown)}.")
    checked = {}
    for name, value in values.items():
        wanted = known[name].type
        if wanted is float and type(value) is int:
            value = float(value)
        if wanted in (int, float, str, dict, bool) and type(value) is not wanted:
            raise MlxflowError(f"{source}: {name} must be of type {wanted.__name__}, not {value!r}.")
        if name == "prompts" and not (isinstance(value, (list, tuple)) and value
                                      and all(isinstance(p, str) for p in value)):
            raise MlxflowError(f"{source}: prompts must be a list of texts, not {value!r}.")
        checked[name] = value
    return TrainConfig(**checked)


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of a TOML recipe."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MlxflowError(f"There is no recipe at {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MlxflowError(f"{path} is not a TOML recipe: {error}.") from None
