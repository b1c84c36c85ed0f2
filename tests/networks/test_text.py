"""The text encoder: what a mask must and must not change."""

import numpy as np
import pytest

from mlxflow.runtime import mx

from mlx.utils import tree_flatten, tree_unflatten

from mlxflow.networks.text import TextConfig, TextEncoder
from mlxflow.paths import weights_dir

SMALL = TextConfig(word_dim=12, width=16, layers=2, heads=4, hidden=24, length=10)


@pytest.fixture
def encoder():
    mx.random.seed(3)
    return TextEncoder(SMALL)


def batch(seed, lengths, size=10):
    vectors = mx.random.normal((len(lengths), size, 12), key=mx.random.key(seed))
    mask = mx.arange(size)[None] < mx.array(lengths)[:, None]
    return vectors, mask


def test_shapes_and_types(encoder):
    condition = encoder(*batch(0, [3, 10]))
    assert condition.tokens.shape == (2, 10, 16) and condition.pooled.shape == (2, 16)
    assert condition.mask.shape == (2, 10) and condition.mask.dtype == mx.bool_
    assert condition.tokens.dtype == condition.pooled.dtype == mx.float32


def test_words_outside_the_mask_change_nothing(encoder):
    vectors, mask = batch(1, [4, 7])
    other = mx.where(mask[..., None], vectors, 1e3 * batch(2, [1, 1])[0])
    one, two = encoder(vectors, mask), encoder(other, mask)
    assert mx.allclose(one.tokens, two.tokens, atol=1e-5) and mx.allclose(one.pooled, two.pooled, atol=1e-5)
    assert not (one.tokens * ~mask[..., None]).any().item()


def test_an_empty_prompt_is_zero_and_its_gradients_are_finite(encoder):
    vectors, mask = batch(3, [0, 5])
    condition = encoder(vectors, mask)
    assert not condition.pooled[0].any().item() and not condition.tokens[0].any().item()
    assert condition.pooled[1].any().item()

    def loss(parameters, vectors, mask):
        encoder.update(parameters)
        condition = encoder(vectors, mask)
        return mx.sum(mx.square(condition.pooled)) + mx.sum(mx.square(condition.tokens))

    for lengths in ([0, 5], [0, 0]):
        gradient = mx.grad(loss)(encoder.parameters(), vectors, batch(3, lengths)[1])
        assert all(mx.isfinite(g).all().item() for _, g in tree_flatten(gradient))


def test_a_sample_does_not_depend_on_its_neighbours_or_on_padding(encoder):
    vectors, mask = batch(4, [3, 6, 0])
    whole, alone = encoder(vectors, mask), encoder(vectors[:1], mask[:1])
    short = encoder(vectors[:1, :5], mask[:1, :5])
    assert mx.allclose(whole.pooled[:1], alone.pooled, atol=1e-5)
    assert mx.allclose(alone.pooled, short.pooled, atol=1e-5)
    assert mx.allclose(alone.tokens[:, :5], short.tokens, atol=1e-5)


def test_the_order_of_words_matters(encoder):
    vectors, mask = batch(5, [4])
    swapped = mx.concatenate([vectors[:, 1:2], vectors[:, :1], vectors[:, 2:]], axis=1)
    assert not mx.allclose(encoder(vectors, mask).pooled, encoder(swapped, mask).pooled, atol=1e-4)


def test_compiled_equals_plain(encoder):
    compiled = mx.compile(lambda v, m: tuple(encoder(v, m)))
    for seed, lengths in ((6, [2, 9]), (7, [0, 1])):
        vectors, mask = batch(seed, lengths)
        for a, b in zip(compiled(vectors, mask), encoder(vectors, mask)):
            assert mx.allclose(a, b, atol=1e-5)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple"):
        TextConfig(width=190, heads=4)


def pretrained():
    arrays = mx.load(str(weights_dir() / "emoji/text-init.safetensors"))
    return {name.removeprefix("text."): value.astype(mx.float32) for name, value in arrays.items()}


def test_the_default_is_small_and_the_pretrained_weights_fit_it():
    encoder = TextEncoder(TextConfig())
    assert sum(value.size for _, value in tree_flatten(encoder.parameters())) < 950_000
    start = pretrained()
    assert {n: v.shape for n, v in start.items()} == {
        n: v.shape for n, v in tree_flatten(encoder.parameters())
    }
    assert all(mx.isfinite(value).all().item() for value in start.values())


def test_pretrained_weights_put_like_prompts_side_by_side():
    from mlxflow.data.words import WordTable

    encoder = TextEncoder(TextConfig())
    encoder.update(tree_unflatten(list(pretrained().items())))
    table = WordTable.load(weights_dir() / "emoji/words.safetensors")
    prompts = [
        "kitten face",
        "cat face",
        "automobile",
        "car",
        "crying face",
        "sad person with tears",
        "yawnnn",
        "yawn",
    ]
    pooled = np.array(encoder(*map(mx.array, table.encode_batch(prompts))).pooled)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    scores = unit @ unit.T - 2 * np.eye(len(prompts))
    assert scores.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


SKETCHING = TextConfig(word_dim=12, width=16, layers=1, heads=4, hidden=24, length=10, sketch=20, sketch_shape=(8, 8, 3))


def test_a_sketch_is_drawn_from_the_words_and_none_from_an_empty_prompt():
    mx.random.seed(4)
    encoder = TextEncoder(SKETCHING)
    encoder.sketch.base = mx.ones((8, 8, 3))
    condition = encoder(*batch(7, [4, 0, 6]))
    assert condition.sketch.shape == (3, 8, 8, 3)
    assert not condition.sketch[1].any().item()
    assert mx.abs(condition.sketch[0] - condition.sketch[2]).min().item() > 0


def test_the_sketch_writes_to_every_pixel_apart():
    """A gradient of each cell's pixels reaches rows of `down` that no other cell uses."""
    mx.random.seed(5)
    encoder = TextEncoder(SKETCHING)
    pooled = mx.random.normal((1, 16))
    rows = []
    for cell in ((0, 0), (1, 3)):
        def of_cell(parameters, cell=cell):
            encoder.sketch.update(parameters)
            y, x = (2 * c for c in cell)
            return encoder.sketch(pooled)[0, y : y + 2, x : x + 2].sum()

        gradient = mx.grad(of_cell)(encoder.sketch.parameters())["down"]["bias"]
        rows.append(set(np.flatnonzero(np.array(gradient)).tolist()))
    assert len(rows[0]) == len(rows[1]) == 32 and not rows[0] & rows[1]


def test_an_encoder_without_a_sketch_says_so_by_an_empty_one(encoder):
    assert encoder(*batch(8, [3])).sketch.shape == (1, 0)


def test_a_sketch_of_a_size_that_cells_cannot_share_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        TextConfig(sketch=8, sketch_shape=(6, 6, 4))
