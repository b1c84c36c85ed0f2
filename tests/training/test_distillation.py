"""`mlxflow distill`'s training: what the student is before a step, what it becomes, and the rules of every
run."""

import json

import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlxflow import weights
from mlxflow.errors import MlxflowError
from mlxflow.flow.guidance import classifier_free
from mlxflow.networks import build, few_step
from mlxflow.runtime import mx
from mlxflow.training.distillation import FewStep, settled
from mlxflow.training.start import start
from mlxflow.training.state import checkpoints
from tests.training import tiny, tiny_classes

CLASSES = tiny_classes.SETTINGS | {"learning_rate": 5e-3, "batch": 32, "ema": 0.95, "log_every": 50}
FLAGS = {
    "batch": 8,
    "warmup": 2,
    "log_every": 1,
    "sample_every": 1000,
    "validate_every": 1000,
    "checkpoint_every": 3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_classes.classes(tmp_path_factory.mktemp("data") / "classes")


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """A run that has learnt where the coloured bars are."""
    run = tmp_path_factory.mktemp("run") / "teacher"
    start(
        run,
        data=data,
        flags=CLASSES | {"model": tiny_classes.UNET, "prediction": "data", "steps": 250, "flip": 0.5},
    )
    return run


@pytest.fixture
def uncompiled():
    """A few steps do not repay the compiler; the long run and the resumed one are compiled."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def arrays_of(run, stem=""):
    return {
        f"{file.stem}/{name}": np.array(array)
        for file in checkpoints(run)[-1].glob(f"{stem}*.safetensors")
        for name, array in mx.load(str(file)).items()
    }


def lines(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "model", [tiny_classes.UNET, tiny_classes.DIT, tiny_classes.MAMBA, tiny.MODEL], ids=lambda m: m["kind"]
)
def test_the_step_size_changes_nothing_at_first_and_never_at_zero(model):
    mx.random.seed(0)
    inputs = (
        (mx.random.normal((3, 6, 128)), mx.ones((3, 6), dtype=mx.bool_))
        if model["kind"] == "text-unet"
        else (mx.array([0, 1, 2]),)
    )
    settled = model if model["kind"] == "text-unet" else model | {"classes": 3}
    plain, stepped = build(settled), build(few_step(settled))
    before = {n: a + 0.1 * mx.random.normal(a.shape) for n, a in tree_flatten(plain.parameters())}
    plain.update(tree_unflatten(list(before.items())))
    stepped.update(tree_unflatten(list(before.items())))
    new = {n: a for n, a in tree_flatten(stepped.parameters()) if n not in before}
    assert len(new) == 2 and all(".step." in f".{n}" for n in new)
    x, t, h = mx.random.normal((3, *plain.shape)), mx.array([0.0, 0.25, 0.5]), mx.array([1.0, 0.25, 0.5])
    field = plain.predict(x, t, plain.encode(*inputs))
    condition = stepped.encode(*inputs)
    for step in ((), (mx.zeros(3),), (h,)):
        assert mx.array_equal(stepped.predict(x, t, condition, *step), field).item()
    stepped.update(tree_unflatten([(n, mx.random.normal(a.shape)) for n, a in new.items()]))
    assert mx.array_equal(stepped.predict(x, t, condition, mx.zeros(3)), field).item()
    assert mx.abs(stepped.predict(x, t, condition, h) - field).max().item() > 1e-3


def test_a_student_draws_in_one_step_what_the_teacher_needs_many_for(data, teacher, tmp_path):
    from mlxflow.data.labelled import open_labelled, to_unit
    from mlxflow.flow.oracle import Oracle
    from mlxflow.sampling.classes import ClassSampler
    from mlxflow.sampling.pipeline import settings_for

    run = tmp_path / "few"
    start(
        run,
        data=data,
        flags=FLAGS
        | {
            "teacher": str(teacher),
            "batch": 32,
            "steps": 200,
            "learning_rate": 2e-3,
            "guidance": 2.0,
            "ema": 0.98,
            "log_every": 100,
            "validate_every": 100,
            "sample_every": 200,
        },
    )
    log = lines(run)
    assert [line["step"] for line in log if "teacher" in line] == [100, 200]
    assert (run / "samples" / "step-00000200.png").exists()
    config = weights.read_config(weights.resolve(run))
    assert config["process"]["few_step"] == {"guidance": 2.0} and config["classes"] == [
        "blue",
        "green",
        "red",
    ]
    theirs, own = ClassSampler.load(teacher), ClassSampler.load(run)
    pictures = open_labelled(data, 8, 3)["train"]
    oracle = Oracle(mx.array(to_unit(pictures.images)))

    def drawn(sampler, *settings):
        """Median distance of 36 pictures to the nearest of the data, the share of the right class, and the
        calls."""
        made = next(
            sampler.draw([0, 1, 2] * 12, 36, 0, settings_for(sampler.model.config, *settings), batch=36)
        )
        nearest = oracle.nearest(mx.array(made.values))
        right = pictures.labels[np.array(nearest.index)] == np.arange(36) % 3
        return float(np.median(np.array(nearest.distance))), right.mean(), made.nfe

    blurred, *_ = drawn(theirs, 1, "euler", 2.0)
    many, right, nfe = drawn(theirs, 16, "heun", 2.0)
    assert many < 0.5 * blurred and right > 0.7 and nfe == 31
    for steps in (1, 2, 3, 4):
        distance, right, nfe = drawn(own, steps)
        assert nfe == steps and distance < 0.7 * blurred and right > 0.7, (steps, distance, blurred, right)
    # At a step size of 0 it is the guided field itself, for any solver.
    distance, right, nfe = drawn(own, 16, "heun")
    assert nfe == 31 and distance < 0.6 * blurred and right > 0.7


def test_a_resumed_distillation_is_the_uninterrupted_one_without_the_teachers_run(data, teacher, tmp_path):
    lent = tmp_path / "lent"
    flags = FLAGS | {"teacher": str(lent)}
    teacher.rename(lent)
    try:
        start(tmp_path / "whole", data=data, flags=flags | {"steps": 4})
        start(tmp_path / "parts", data=data, flags=flags | {"steps": 2})
    finally:
        lent.rename(teacher)
    start(tmp_path / "parts", data=None, flags={"steps": 4}, resume=True)
    left, right = arrays_of(tmp_path / "whole"), arrays_of(tmp_path / "parts")
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], err_msg=name)
    line = lines(tmp_path / "parts")[-1]
    assert line["field"] > 0 and len(line["jumps"]) == 6


def test_micro_batches_equal_the_big_batch(data, teacher, tmp_path, uncompiled):
    for parts in (1, 4):
        start(
            tmp_path / str(parts),
            data=data,
            flags=FLAGS | {"teacher": str(teacher), "accumulate": parts, "steps": 1},
        )
    whole, cut = arrays_of(tmp_path / "1", "optimizer"), arrays_of(tmp_path / "4", "optimizer")
    for name in whole:
        if name.startswith("optimizer/m."):
            np.testing.assert_allclose(cut[name], whole[name], atol=1e-6, err_msg=name)
    assert lines(tmp_path / "1")[0]["field"] == pytest.approx(lines(tmp_path / "4")[0]["field"], rel=1e-3)


def test_the_teachers_recipe_is_handed_on_and_what_it_settles_stays(teacher, tmp_path):
    config = settled({"teacher": str(teacher), "batch": 16})
    assert (config["flip"], config["times"], config["batch"], config["guidance"]) == (0.5, "uniform", 16, 3.0)
    assert config["prediction"] == "data" and config["floor"] == 1 / 64 and config["model"]["few_step"]
    # From a lone weights file nothing is known of the data.
    save(tmp_path / "alone", weights.read_config(weights.resolve(teacher)))
    config = settled({"teacher": str(tmp_path / "alone")})
    assert "flip" not in config and (config["shift"], config["learning_rate"]) == (0, 3e-4)


def test_the_target_is_the_guided_field(data, teacher, tmp_path, uncompiled):
    from mlxflow.training.config import from_values
    from mlxflow.training.dataset import open_labels

    config = from_values(settled({"teacher": str(teacher), "guidance": 2.5, "batch": 8}), "test")
    dataset, _ = open_labels(data, config.model, (8, 8, 3))
    theirs = weights.load(teacher)
    objective = FewStep(config, build(config.model), dataset, 0, 1, theirs)
    x, t, h, v, labels = objective.arrays(next(dataset.batches(config, 0, 1, 0)), 0)
    assert h.shape == (4,) and t[::2].max().item() <= 63 / 64
    assert mx.array_equal(mx.round(t[1::2] / h), t[1::2] / h).item()
    velocity = weights.velocity_of(
        theirs.network, theirs.config["process"] | {"floor": 1 / 64}, compiled=False
    )
    guided = classifier_free(
        velocity, theirs.network.encode(labels[::2]), theirs.network.encode(mx.array([3])), 2.5
    )
    np.testing.assert_allclose(v, guided(x[::2], t[::2]), atol=1e-4)


def test_words_too(tmp_path, uncompiled):
    from mlxflow.sampling.pipeline import Pipeline, requests_for, settings_for

    data = tiny.pictures(tmp_path / "pictures")
    start(tmp_path / "teacher", data=data, flags=tiny.SETTINGS | {"steps": 2})
    start(
        tmp_path / "few",
        data=data,
        flags=FLAGS
        | {"teacher": str(tmp_path / "teacher"), "steps": 2, "sample_every": 2, "validate_every": 2},
    )
    pipeline = Pipeline.load(tmp_path / "few")
    assert pipeline.model.config["model"]["unet"]["few_step"]
    for given, calls in (({}, [1, 2, 3, 4]), ({"steps": 1}, [1]), ({"steps": 2, "solver": "heun"}, [2, 3])):
        settings = settings_for(pipeline.model.config, **given)
        frames = list(pipeline.stream(requests_for(["red square"], 1, 1), settings))
        assert settings.guidance == 1 and [frame.nfe for frame in frames] == calls


@pytest.mark.parametrize(
    "flags, says",
    [
        ({"guidance": -1.0}, "guidance must be 0 or more"),
        ({"batch": 9}, "batch 9 cannot be halved"),
        ({"prediction": "velocity"}, "teacher settles prediction"),
        ({"model": tiny_classes.DIT}, "teacher settles model"),
    ],
)
def test_what_does_not_fit_the_teacher_is_a_sentence(data, teacher, tmp_path, flags, says):
    with pytest.raises(MlxflowError, match=says):
        start(tmp_path / "run", data=data, flags=FLAGS | {"teacher": str(teacher), "steps": 1} | flags)
    assert not (tmp_path / "run").exists()


def save(folder, config):
    """Random weights of that config."""
    weights.save(folder, dict(tree_flatten(build(config["model"]).parameters())), config)
    return str(folder)


@pytest.mark.parametrize(
    "model, process, says",
    [
        (tiny_classes.DIT, {"prediction": "noise"}, "predicts noise on the path condot"),
        (tiny_classes.DIT, {"prediction": "data", "path": "vp"}, "on the path vp"),
        (few_step(tiny_classes.DIT), {"few_step": {"guidance": 1.0}}, "in few steps already"),
        (tiny_classes.KL, None, "is an autoencoder"),
    ],
)
def test_teachers_that_cannot_be_are_sentences(tmp_path, model, process, says):
    whole = {} if process is None else {"path": "condot", "prediction": "velocity", "floor": 0.05} | process
    file = save(tmp_path / "teacher", {"format": 1, "model": model, "process": whole})
    with pytest.raises(MlxflowError, match=says):
        settled({"teacher": file})


def test_the_pictures_must_be_of_the_teachers_classes(teacher, tmp_path, uncompiled):
    other = tiny_classes.classes(tmp_path / "other")
    (other / "red").rename(other / "orange")
    with pytest.raises(MlxflowError, match="classes are .*red.* those of the pictures are .*orange"):
        start(tmp_path / "run", data=other, flags=FLAGS | {"teacher": str(teacher), "steps": 1})
    with pytest.raises(MlxflowError, match="leave --init out"):
        start(tmp_path / "run", data=other, flags={"teacher": str(teacher)}, init=teacher)


def test_what_is_told_nothing_is_distilled_without_guidance(tmp_path, uncompiled):
    data = tiny_classes.unlabelled(tmp_path / "plain")
    free = save(
        tmp_path / "free",
        {
            "format": 1,
            "model": tiny_classes.DIT | {"classes": 0},
            "process": {"path": "cosine", "prediction": "velocity", "floor": 0.05},
        },
    )
    with pytest.raises(MlxflowError, match="set the guidance to 1"):
        start(tmp_path / "run", data=data, flags=FLAGS | {"teacher": free, "steps": 1, "guidance": 2.0})
    start(tmp_path / "run", data=data, flags=FLAGS | {"teacher": free, "steps": 1})
    process = weights.read_config(weights.resolve(tmp_path / "run"))["process"]
    assert process["few_step"] == {"guidance": 1.0} and process["path"] == "cosine"
