"""How a collage is taught: what its captions call things, what it is shown, and that it learns to put two things apart."""

import numpy as np
import pytest

from mlxflow.runtime import mx

from mlx.utils import tree_flatten

from apps.emoji import pretrain_collage as script
from mlxflow.data.compose import Placement, unseen
from mlxflow.data.folder import Record
from mlxflow.data.words import WordTable
from mlxflow.networks.text import TextConfig, TextEncoder
from mlxflow.paths import weights_dir
from mlxflow.training import ema
from mlxflow.training.optimizers import init_moments
from mlxflow.weights import read_arrays
from tests.data.discs import disc

THINGS = {"apple": ((210, 30, 40), ("fruit", "red apple", "what the doctor ordered")), "pear": ((40, 160, 60), ("fruit",)),
          "automobile": ((30, 60, 220), ("car", "my car")), "banana": ((230, 220, 40), ("yellow fruit",))}


@pytest.fixture(scope="module")
def table():
    return WordTable.load(weights_dir() / "emoji/words.safetensors")


@pytest.fixture(scope="module")
def shipped(table):
    """The shipped text encoder and sketch, with a collage that has learnt nothing."""
    mx.random.seed(0)
    arrays = {n.removeprefix("text."): a.astype(mx.float32) for n, a in read_arrays(weights_dir() / "emoji/model.safetensors").items()
              if n.startswith("text.") and not n.startswith("text.collage.")}
    encoder = TextEncoder(TextConfig(word_dim=table.dim, sketch=len(arrays["sketch.memory.slot_keys"]), collage=True))
    encoder.load_weights(list(arrays.items()), strict=False)
    return encoder


@pytest.fixture(scope="module")
def composer():
    records = [Record(file_name=f"{name}.png", text=name, texts=texts, style="noto", split="train", base=name, label=None,
                      extra={"codepoints": name, "group": "Food & Drink"}) for name, (_, texts) in THINGS.items()]
    return script.Everyday(records, np.stack([disc(colour) for colour, _ in THINGS.values()]))


def test_everyday_words_are_short_without_colours_and_those_that_the_memory_is_sure_of(table, shipped, composer, monkeypatch):
    monkeypatch.setattr(script, "choices", lambda encoder, pooled: 9.0 * mx.eye(len(THINGS))[mx.array([0, 0, 2, 2])])
    words = script.everyday_words(table, shipped, composer.records)
    # Asked: fruit (apple), fruit (pear), car, my car; the second is taken for an apple.
    assert words == {0: [["fruit"]], 2: [["car"], ["my car"]]}
    composer.words = words
    called = {composer.said(2, np.random.default_rng(seed)) for seed in range(60)}
    assert called == {"automobile", "car", "my car"} and composer.said(1, np.random.default_rng(0)) == "pear"
    composer.words = {}


def test_a_pool_has_two_things_of_each_composition_and_nothing_that_is_kept_from_training(table, composer, monkeypatch):
    seen = []
    monkeypatch.setattr("mlxflow.data.compose.unseen", lambda *parts: seen.append(unseen(*parts)) or seen[-1])
    pool = script.Pool(composer, table, 16, 40, seed=0)
    assert any(seen), "some were kept from it"
    assert pool.pictures.shape == (40, 16, 16, 4) and pool.pictures.dtype == np.uint8 and len(pool.others) == 8
    rows = {tuple(table.tokens(name)): k for k, name in enumerate(THINGS)}
    for row, (one, two), picture in zip(pool.rows, pool.things, pool.pictures):
        words = [k for name, k in rows.items() if any(tuple(row[i : i + len(name)]) == name for i in range(len(row)))]
        assert {one, two} >= {*words} and picture[..., 3].max() > 200
    assert pool.layers.shape == (40, 5, 5) and (pool.layers[:, 2, 4] == 1).all() and (pool.layers[..., 4].sum(1) >= 2).all()
    again = script.Pool(composer, table, 16, 40, seed=0)
    assert again.rows == pool.rows and np.array_equal(again.pictures, pool.pictures)


def test_layers_are_in_front_of_the_first_thing_or_behind_it():
    whole, half = (1.0, 1.0, 0.0, 0.0), (0.5, 0.5, 0.2, 0.1)
    mirrored = (-0.5, 0.5, -0.2, 0.1)
    layers = script.layers_of([Placement(1, *half), Placement(1, *mirrored), Placement(0, *whole)])
    assert np.allclose(layers, [(*half, 1), (*mirrored, 1), (*whole, 1), (0,) * 5, (0,) * 5])
    layers = script.layers_of([Placement(0, *half), Placement(1, *half), Placement(1, *whole)])
    assert np.allclose(layers, [(0,) * 5, (0,) * 5, (*half, 1), (*half, 1), (*whole, 1)])


def test_a_collage_learns_and_nothing_else_moves(table, shipped, composer):
    pool = script.Pool(composer, table, 16, 64, seed=0)
    batches = script.Batches(table, script.Captions(table, composer.records), pool, 16, seed=0)
    one, two = batches(3), batches(3)
    assert all(np.array_equal(a, b) for a, b in zip(one[0] + one[4] + one[1:4], two[0] + two[4] + two[1:4]))
    before = {n: np.array(a) for n, a in tree_flatten(shipped.parameters()) if not n.startswith("collage.")}
    step = script.compiled_step(shipped)
    weights = dict(tree_flatten(shipped.collage.parameters()))
    average, moments, errors = dict(weights), init_moments("muon", weights), []
    for n in range(60):
        parts, weights, average, moments = step(weights, average, moments, mx.array(n + 1.0), mx.array(ema.decay_at(0.9, n)),
                                                mx.array(3e-3), *batches(n))
        mx.eval(parts, weights, average, moments)
        errors.append(np.array(parts))
    first, last = np.mean(errors[:5], axis=0), np.mean(errors[-5:], axis=0)
    assert last[0] < 0.8 * first[0], "error"
    after = dict(tree_flatten(shipped.parameters()))
    assert all(np.array_equal(np.array(after[n]), a) for n, a in before.items())
