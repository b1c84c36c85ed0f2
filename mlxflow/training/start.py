"""Opening a run folder: what is refused, what is replaced, and what a resumed run may change."""

import json
import os
import shutil
from pathlib import Path

from mlxflow.runtime import mx

from mlxflow import paths  # noqa: E402
from mlxflow.errors import MlxflowError  # noqa: E402
from mlxflow.networks import build  # noqa: E402
from mlxflow.training.config import TrainConfig, from_values, read_recipe  # noqa: E402
from mlxflow.training.dataset import Dataset, TextDataset, open_labels  # noqa: E402
from mlxflow.training.distillation import TEACHER, settled  # noqa: E402
from mlxflow.training.finetune import continued  # noqa: E402
from mlxflow.training.progress import Progress  # noqa: E402
from mlxflow.training.state import checkpoints  # noqa: E402
from mlxflow.training.trainer import Trainer, trim_log  # noqa: E402
from mlxflow.weights import AUTOENCODER, WORDS, find_words, read_config, resolve  # noqa: E402

CONFIG = "config.json"
# What a resumed run may change without becoming another run.
_CHANGEABLE = {"steps", "epochs", "minutes", "log_every", "sample_every", "validate_every", "checkpoint_every", "keep",
               "prompts", "workers"}


def start(run: Path, *, data: Path | None, recipe: Path | None = None, flags: dict | None = None,
          resume: bool = False, force: bool = False, init: Path | None = None) -> Path | None:
    """Train in the folder `run` and return the last checkpoint (None on ranks other than 0)."""
    group = mx.distributed.init()
    first = group.rank() == 0
    values = (read_recipe(recipe) if recipe else {}) | (flags or {})
    source = str(recipe) if recipe else "The options"
    stored = read_run(run)
    mx.eval(mx.distributed.all_sum(mx.array(0.0), group=group))  # no rank makes the run before all have looked for one
    if resume:
        config, data = reopened(run, stored, values, data, init)
    else:
        if stored is not None and not force:
            raise MlxflowError(f"{run} already holds a run: add --resume to go on with it or --force to replace it.")
        if stored is None and run.is_dir() and any(run.iterdir()) and not force:
            raise MlxflowError(f"{run} is not empty and holds no run: choose another run folder.")
        if values.get("teacher") and init is not None:
            raise MlxflowError("A few-step model starts from its teacher: leave --init out.")
        if init is not None and recipe is None:
            values = continued(values, init, data)
        if init is not None and "seed" not in values:
            values = values | {"seed": seen_by(init)}
        config = from_values(settled(values) if values.get("teacher") else values, source)
        if data is None:
            raise MlxflowError("Say which pictures to train on with --data FOLDER (`mlxflow data emoji emoji/` makes one).")
    teacher = None
    if config.teacher:
        teacher = run / TEACHER if resume else resolve(config.teacher)
    dataset, model = open_data(config, data, run if resume else None, teacher or _words_source(init))
    config = config.replace(model=model)
    trainer = Trainer(config, run, dataset, init=teacher or init, teacher=teacher)
    if first:
        files = dataset.files | ({TEACHER: teacher} if teacher else {})
        create(run, stored, config, data, init, files, resume)
    if resume:
        found = checkpoints(run)
        if found:
            trainer.restore(found[-1])
        if first:
            trim_log(run, trainer.state.step)
    if not first:
        trainer.run()
        return None
    with Progress(f"{run}") as progress:
        trainer.progress = progress
        return trainer.run()


def seen_by(init: Path) -> int:
    """How many pictures the weights have seen (0 if they do not say).

    That is the seed of a run that goes on from them: with the seed of the run that made them, the first pass would draw
    the same pictures with the same noise once more, and learn them by heart.
    """
    file = resolve(init)
    try:
        return int((read_config(file).get("trained") or {}).get("images", 0))
    except MlxflowError:
        return 0  # a part of a model, without a config


def _words_source(init: Path | None) -> Path | None:
    """The weights file that a run starts from, if it is of a whole model that has a word table of its own."""
    if init is None:
        return None
    file = resolve(init)
    try:
        return file if "words" in read_config(file) else None
    except MlxflowError:
        return None  # a part of a model, without a config


def open_data(config: TrainConfig, folder: Path, run: Path | None, teacher: Path | None) -> tuple[Dataset, dict]:
    """The dataset for the config's kind of model, and the model's config with what the data settle.

    run: the folder of a resumed run, whose copies of the dataset's files are used; teacher: the weights file whose
    words and latents are used.
    """
    model = config.model
    try:
        network = build(model)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise MlxflowError(f"The model's settings describe no network: {error}.") from None
    if network.kind == "text-unet":
        words = (run or paths.weights_dir() / "emoji") / WORDS
        if teacher:
            words = find_words(teacher, read_config(teacher))
        dataset = TextDataset(folder, words, shape=network.shape, length=network.config.text.length,
                              rehearsal=config.rehearsal > 0)
        return dataset, model | {"text": {"word_dim": dataset.words.dim} | model.get("text", {})}
    if config.scale:
        raise MlxflowError("scale is for pictures with captions: set it to 0 for classes.")
    if hasattr(network, "latents"):
        return open_labels(folder, {"classes": 0}, network.shape)[0], model
    if not config.autoencoder:
        dataset, classes = open_labels(folder, model, network.shape)
        return dataset, model | {"classes": classes}
    if config.shift or config.flip:
        raise MlxflowError("Latents are made once, so nothing can be moved at random: set shift and flip to 0.")
    from mlxflow.training.latents import LatentDataset

    source = run / AUTOENCODER if run else Path(config.autoencoder)
    scale = read_config(teacher)["autoencoder"]["scale"] if teacher else None
    dataset = LatentDataset(folder, source, model.get("classes"), scale)
    if network.shape != dataset.shape:
        raise MlxflowError(f"The autoencoder's latents are {dataset.shape[0]}x{dataset.shape[1]}x{dataset.shape[2]}: set "
                           f"the model's image_size to {dataset.shape[0]} and channels to {dataset.shape[2]}.")
    return dataset, model | {"classes": len(dataset.train.names) if dataset.conditional else 0}


def read_run(run: Path) -> dict | None:
    """What the run folder's config.json says, or None when there is no run."""
    try:
        return json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise MlxflowError(f"{run / CONFIG} cannot be read ({error}).") from None


def reopened(run: Path, stored: dict | None, values: dict, data: Path | None, init: Path | None):
    """The stored run's config with the changeable settings of `values`, and its data folder."""
    if stored is None:
        raise MlxflowError(f"There is no run in {run} to resume.")
    if init is not None:
        raise MlxflowError("--init starts a run; a resumed one has its weights already.")
    config = from_values(stored["train"], str(run / CONFIG))
    now = config.to_dict()
    fixed = [n for n, v in values.items() if n not in _CHANGEABLE and n in now and not _covers(now[n], v)]
    if fixed:
        raise MlxflowError(f"A resumed run cannot change {', '.join(sorted(fixed))}: start another with --init {run}.")
    return config.replace(**{n: v for n, v in values.items() if n in _CHANGEABLE or n not in now}), data or Path(stored["data"])


def _covers(stored: object, value: object) -> bool:
    """Whether a recipe's value is what the run has; a table in it may leave defaults out."""
    if isinstance(stored, dict) and isinstance(value, dict):
        return all(name in stored and _covers(stored[name], v) for name, v in value.items())
    return (list(stored) if isinstance(stored, tuple) else stored) == (list(value) if isinstance(value, tuple) else value)


def create(run: Path, stored: dict | None, config: TrainConfig, data: Path, init: Path | None,
           files: dict[str, Path], resume: bool) -> None:
    """Make the run folder, or bring the config of a resumed one up to date."""
    try:
        if not resume and stored is not None:
            for name in ("checkpoints", "samples"):
                shutil.rmtree(run / name, ignore_errors=True)
            (run / "log.jsonl").unlink(missing_ok=True)
        run.mkdir(parents=True, exist_ok=True)
        if not resume:
            for name, source in files.items():
                shutil.copyfile(source, run / name)
        values = {"train": config.to_dict(), "data": str(data.resolve()),
                  "init": str(init) if init else (stored or {}).get("init") if resume else None}
        partial = run / (CONFIG + ".partial")
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, run / CONFIG)
    except OSError as error:
        raise MlxflowError(f"The run folder {run} cannot be written: {error.strerror or error}.") from None
