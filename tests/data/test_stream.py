"""The stream is a function of (seed, step): every group once a pass, ranks share, any step can be the first."""

from itertools import islice

import numpy as np
import pytest

from mlxflow.data.folder import Record
from mlxflow.data.stream import Order, StreamConfig, caption_of, groups_of, stream

SIZE, LENGTH = 8, 3


def record(i, base=None, texts=()):
    return Record(file_name=f"{i}.png", text=f"name {i}", texts=texts, style=None, split="train", base=base,
                  label=None, extra={})


def a_set(count=10, variants=5):
    """`count` things; number 0 has so many variants."""
    records = [record(i, base=f"b{i}", texts=(f"word {i}",)) for i in range(count)]
    records += [record(count + v, base="b0") for v in range(variants - 1)]
    images = np.zeros((len(records), SIZE, SIZE, 4), np.uint8)
    images[..., 3] = 255
    images[..., 0] = (np.arange(len(records)) * 10)[:, None, None]
    return records, images


def encode(caption):
    number = float(caption.split()[-1])
    return np.full((LENGTH, 2), number, np.float32), np.array([True, caption.startswith("name"), False])


def batches(count, step=0, **settings):
    records, images = a_set()
    return list(islice(stream(records, images, encode, StreamConfig(**{"batch": 4, **settings}), step), count))


def numbers(batch):
    """Which records a batch shows, read from its pixels."""
    return np.rint((batch.images[:, 4, 4, 0] + 1) / 2 * 255 / 10).astype(int).tolist()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b))


def test_a_batch_holds_pictures_and_the_captions_of_the_same_records():
    for batch in batches(6):
        assert batch.images.dtype == np.float32 and batch.images.shape == (4, SIZE, SIZE, 4)
        assert batch.mask.dtype == bool and batch.mask.shape == (4, LENGTH)
        assert batch.vectors[:, 0, 0].tolist() == numbers(batch)
        assert batch.images.min() >= -1 and batch.images.max() <= 1


def test_in_a_pass_every_group_comes_equally_often_whatever_its_size():
    records, _ = a_set()
    order = Order(records, 4, seed=0)
    picks = order.of_pass(0)
    assert len(picks) == order.rounds * 10 and order.steps * 4 <= len(picks)
    groups = [records[i].base for i in picks]
    assert {groups.count(f"b{i}") for i in range(10)} == {order.rounds}
    variants = {int(i) for number in range(30) for i in order.of_pass(number) if records[i].base == "b0"}
    assert variants == {0, 10, 11, 12, 13}


def test_a_group_of_many_can_come_more_often():
    records, _ = a_set(variants=6)
    order = Order(records, 4, seed=0, variants=0.5)
    groups = [records[i].base for i in order.of_pass(0)]
    assert {groups.count(f"b{i}") for i in range(1, 10)} == {order.rounds}
    assert groups.count("b0") == 2 * order.rounds
    assert np.array_equal(Order(records, 4, seed=0, variants=0.0).of_pass(1), Order(records, 4, seed=0).of_pass(1))


def test_orders_differ_between_passes_and_seeds_and_repeat_for_the_same():
    records, _ = a_set()
    first = Order(records, 4, seed=0)
    assert np.array_equal(first.of_pass(3), Order(records, 4, seed=0).of_pass(3))
    assert not np.array_equal(first.of_pass(0), first.of_pass(1))
    assert not np.array_equal(first.of_pass(0), Order(records, 4, seed=1).of_pass(0))


@pytest.mark.parametrize("step", [1, 7, Order(a_set()[0], 4, 0).steps, Order(a_set()[0], 4, 0).steps + 3])
def test_it_can_start_at_any_step_bit_for_bit(step):
    settings = {"shift": 2, "scale": 0.1, "flip": 0.5}
    whole = batches(step + 3, **settings)
    assert all(same(a, b) for a, b in zip(whole[step:], batches(3, step, **settings)))


def test_the_same_picture_is_drawn_otherwise_in_another_pass():
    steps = Order(a_set()[0], 4, 0).steps
    captions = {}
    for batch in batches(4 * steps, name_share=0.5):
        for number, mask in zip(numbers(batch), batch.mask):
            captions.setdefault(number, set()).add(bool(mask[1]))
    assert captions[1] == {True, False}


def test_ranks_share_one_batch():
    whole = batches(5)
    parts = [batches(5, rank=rank, size=2) for rank in (0, 1)]
    for step in range(5):
        joined = [np.concatenate([part[step][i] for part in parts]) for i in range(3)]
        assert same(whole[step], joined)


def test_captions_are_the_name_or_another_text():
    generator = np.random.default_rng(0)
    rich, poor = record(1, texts=("a", "b")), record(2)
    drawn = [caption_of(rich, generator, 0.5) for _ in range(400)]
    assert set(drawn) == {"name 1", "a", "b"} and 150 < drawn.count("name 1") < 250
    assert {caption_of(poor, generator, 0.0) for _ in range(5)} == {"name 2"}
    assert {caption_of(rich, generator, 1.0) for _ in range(50)} == {"name 1"}


def test_records_without_a_base_are_groups_of_their_own():
    assert [g.tolist() for g in groups_of([record(0), record(1, "x"), record(2), record(3, "x")])] == [[0], [1, 3], [2]]


def test_a_stream_with_compositions_can_be_entered_anywhere_and_shows_new_captions():
    records, images = a_set()
    images[..., :3] = (220, 30, 40)  # one strong hue, so that each can be recoloured
    captions = set()

    def known(caption):
        captions.add(caption)
        return np.zeros((LENGTH, 2), np.float32), np.array([True, True, False])

    config = StreamConfig(batch=4, compose=0.5)
    whole = list(islice(stream(records, images, known, config), 8))
    later = list(islice(stream(records, images, known, config, 5), 3))
    assert all(same(a, b) for a, b in zip(whole[5:], later))
    assert captions - {text for r in records for text in (r.text, *r.texts)}
    assert any(np.ptp(batch.images[..., 0]) > 1 for batch in whole)
