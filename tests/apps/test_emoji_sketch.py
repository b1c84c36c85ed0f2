"""The sketch's memory as it is begun: a slot for each emoji, from its captions and its thumbnail."""

import numpy as np
import pytest

from mlxflow.runtime import mx

from mlx.utils import tree_flatten, tree_unflatten

from apps.emoji import pretrain_sketch as script
from mlxflow.data.folder import Record
from mlxflow.data.words import WordTable
from mlxflow.networks.text import TextConfig, TextEncoder
from mlxflow.paths import weights_dir

WORDS = ("cat dog fish bird horse cow pig sheep mouse tiger lion bear wolf fox rabbit snake frog whale shark crab apple banana "
         "cherry lemon melon grape peach pear tomato potato carrot corn bread cheese egg pizza burger cake cookie candy honey "
         "milk coffee tea beer wine car bus train plane ship boat rocket bicycle truck tractor house castle church tent bridge "
         "tower school hospital hotel bank sun moon star cloud rain snow fire water tree flower leaf mountain beach island").split()


@pytest.fixture(scope="module")
def table():
    return WordTable.load(weights_dir() / "emoji/words.safetensors")


@pytest.fixture
def encoder(table):
    mx.random.seed(0)
    made = TextEncoder(TextConfig(word_dim=table.dim, sketch=len(WORDS) + 5))
    arrays = mx.load(str(weights_dir() / "emoji/text-init.safetensors"))
    made.update(tree_unflatten([(n.removeprefix("text."), a.astype(mx.float32)) for n, a in arrays.items()]))
    return made


def pictures() -> np.ndarray:
    """Thumbnails of one colour in each cell: few enough components for the memory to hold them exactly."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (len(WORDS), 4, 4, 4)).repeat(4, axis=1).repeat(4, axis=2).astype(np.float32)


def drawn(encoder, table, words) -> np.ndarray:
    rows = [table.tokens(word, script.LENGTH) for word in words]
    return np.array(encoder(*script.padded(table, rows, script.LENGTH)).sketch)


def test_a_memory_as_it_is_begun_draws_what_each_word_means_and_leaves_further_slots(encoder, table):
    thumbnails = pictures()
    before = np.array(encoder.sketch.memory.slot_keys)
    records = [Record(f"{word}.png", word, base=word) for word in WORDS]
    made = script.prototypes(encoder, table, records, thumbnails)
    assert {n: a.shape for n, a in made.items()}.items() <= {
        n: a.shape for n, a in tree_flatten(encoder.sketch.parameters())}.items()
    assert np.array_equal(np.array(made["memory.slot_keys"])[len(WORDS):], before[len(WORDS):])
    assert np.square(drawn(encoder, table, WORDS) - thumbnails).mean() > 0.2, "not before"
    encoder.sketch.update(tree_unflatten(list(made.items())))
    far = np.square(drawn(encoder, table, WORDS)[:, None] - thumbnails[None]).mean((2, 3, 4))
    assert np.array_equal(far.argmin(1), np.arange(len(WORDS)))
    assert np.median(np.diag(far)) < 0.02


def test_going_on_from_its_own_result_softens_what_was_sharpened_and_an_older_memory_is_begun_anew(encoder):
    own = dict(tree_flatten(encoder.parameters()))
    asked = {**own, script.SLOT_KEYS: script.SHARPER * own[script.SLOT_KEYS]}
    again = script.start(encoder, asked, lambda: pytest.fail("its memory is there"))
    assert all(mx.allclose(again[name], own[name], atol=1e-6) for name in own)
    older = {n: a for n, a in own.items() if "change" not in n} | {script.SLOT_KEYS: mx.zeros((4, 7, 48))}
    begun = script.start(encoder, older, lambda: {"base": mx.ones((16, 16, 4))})
    assert begun["sketch.base"].min().item() == 1 and begun[script.SLOT_KEYS].shape == own[script.SLOT_KEYS].shape


def test_what_was_taught_after_the_sketch_is_left_out_when_it_is_taught_on(encoder):
    own = dict(tree_flatten(encoder.parameters()))
    again = script.start(encoder, own | {"collage.place.bias": mx.zeros(25)}, lambda: pytest.fail("its memory is there"))
    assert again.keys() == own.keys()
