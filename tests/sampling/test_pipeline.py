import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxflow.data.words import WordTable
from mlxflow.errors import MlxflowError
from mlxflow.flow.paths import path_by_name
from mlxflow.flow.solvers import NAMES, uniform_grid
from mlxflow.paths import weights_dir
from mlxflow.runtime import mx
from mlxflow.sampling.pipeline import (GUIDE_UNTIL, MAX_SEED, Pipeline, Request, Settings, check_prompt, digest, generate,
                                       requests_for, sample, settings_for, states, time_grid)

NOISE = mx.random.normal((2, 4, 4, 4), key=mx.random.key(1))


def heading_for(path, floor=0.05):
    """The velocity of a data-predicting network that always answers with its condition `[B, ...]`."""

    def velocity(x, t, condition):
        return path.convert(x, mx.broadcast_to(condition, x.shape), t, "data", "velocity", floor)

    return velocity


def own(solver):
    return {"key": mx.random.key(0)} if solver == "sde" else {}


@given(st.integers(1, 300), st.floats(0.001, 0.5))
def test_the_grid_rises_from_0_to_1_and_ends_with_a_long_enough_step(steps, last):
    times = time_grid(steps, last)
    assert len(times) == steps + 1 and times[0] == 0 and times[-1] == 1
    gaps = np.diff(times)
    assert (gaps > 0).all() and gaps[-1] >= min(last, 1.0) - 1e-12
    if 1 - (1 - 1 / steps) ** 2 > last:
        assert times == [t**2 for t in uniform_grid(steps)]


@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 16, 20, 21, 50, 100])
def test_no_noise_is_left_in_the_picture(solver, steps):
    # With every answer the same, each picture must be that answer. Steps inside the floored stretch would leave up
    # to a third of the noise that was there at its beginning.
    picture = mx.random.uniform(-1, 1, (2, 4, 4, 4), key=mx.random.key(2))
    made = sample(heading_for(path_by_name("condot")), picture, picture, NOISE, steps, solver, **own(solver))
    assert mx.abs(made - picture).max().item() < 1e-5


@pytest.mark.parametrize("path", ["vp", "cosine"])
def test_curved_paths_end_in_the_data_too(path):
    path = path_by_name(path)
    picture = mx.full((1, 4, 4, 4), 0.5)
    made = sample(heading_for(path, 0.01), picture, picture, NOISE, 16, "heun", path=path)
    assert mx.abs(made - picture).max().item() < 1e-3


def test_a_gaussian_becomes_the_gaussian_that_it_should():
    # Data N(m, s^2): the exact posterior mean is linear in x and the flow maps noise z to m + s z.
    m, s = 0.3, 0.5

    def velocity(x, t, condition):
        t = t.reshape(-1, 1, 1, 1)
        gain = t * s * s / (t * t * s * s + (1 - t) * (1 - t))
        x1 = m + gain * (x - t * m)
        return (x1 - x) / mx.maximum(1 - t, 0.05)

    wanted = m + s * NOISE
    errors = [mx.abs(sample(velocity, mx.zeros((1,)), mx.zeros((1,)), NOISE, steps, "heun") - wanted).max().item()
              for steps in (8, 32)]
    # What is left at 32 steps is the jump from t = 0.95, which lands on the posterior mean there: relative spread
    # 0.95 s / sqrt(0.95^2 s^2 + 0.05^2), 0.55 % short of 1.
    assert errors[1] < errors[0] and errors[1] < 0.02


def test_guidance_extrapolates_from_null_to_condition():
    yes, no = mx.full((1, 1, 1, 1), 0.2), mx.full((1, 1, 1, 1), -0.1)
    for scale in (0.0, 1.0, 3.0):
        made = sample(heading_for(path_by_name("condot")), yes, no, NOISE, 4, "heun", scale)
        assert mx.allclose(made, mx.full(made.shape, -0.1 + scale * 0.3), atol=1e-5)


def test_states_count_calls_and_end_at_the_data():
    asked = []

    def velocity(x, t, condition):
        asked.append(t[0].item())
        return -x

    seen = list(states(velocity, mx.zeros((1,)), mx.zeros((1,)), NOISE, 5, "heun"))
    assert [round(state.t, 6) for state in seen] == [0.04, 0.16, 0.36, 0.64, 1.0]
    assert [state.nfe for state in seen] == [2, 4, 6, 8, 9] and len(asked) == 9
    assert max(asked) == pytest.approx(0.64)
    assert mx.array_equal(seen[-1].x, seen[-1].x1_estimate)


def pixels(pipeline, requests, batch=1, **settings):
    frames = pipeline.stream(requests, Settings(**({"steps": 3} | settings)), batch=batch)
    return {requests[frame.index]: frame.pixels for frame in frames if frame.t == 1}


def test_a_picture_does_not_depend_on_its_company(pipeline):
    alone = pixels(pipeline, [Request("red heart", 8)])[Request("red heart", 8)]
    company = requests_for(["cat", "red heart", "a dog with a hat"], 3, 7)
    assert np.array_equal(pixels(pipeline, company)[Request("red heart", 8)], alone)
    assert np.array_equal(pixels(pipeline, company[::-1])[Request("red heart", 8)], alone)
    again = Pipeline(pipeline.model)
    assert np.array_equal(pixels(again, [Request("red heart", 8)])[Request("red heart", 8)], alone)


def test_a_batch_draws_the_same_pictures_but_for_rounding(pipeline):
    requests = requests_for(["cat", "red heart"], 3, 7)
    one, four = pixels(pipeline, requests), pixels(pipeline, requests, batch=4)
    assert one.keys() == four.keys() and len(one) == 6
    # Straight colours under a low alpha amplify a rounding: compare what can be seen.
    for request in requests:
        seen = [picture[..., :3] * (picture[..., 3:] / 255.0) for picture in (one[request], four[request])]
        assert np.abs(seen[0] - seen[1]).max() < 3


def test_prompt_seed_negative_and_every_setting_change_the_picture(pipeline):
    drawn = [pixels(pipeline, [request], **settings)[request].tobytes() for request, settings in [
        (Request("cat", 0), {}), (Request("cat", 1), {}), (Request("dog", 0), {}), (Request("cat", 0), {"steps": 4}),
        (Request("cat", 0), {"guidance": 1}), (Request("cat", 0), {"guidance": 5}),
        (Request("cat", 0), {"negative": "blue"}), (Request("cat", 0), {"solver": "euler"})]]
    assert len(set(drawn)) == len(drawn)


def test_generate_gives_n_pictures_of_each_prompt_with_rising_seeds(pipeline):
    images = generate(pipeline.model, ["cat", "dog"], n=2, seed=0, steps=2)
    assert [(image.mode, image.size) for image in images] == [("RGBA", (16, 16))] * 4
    second = generate(pipeline.model, "cat", seed=1, steps=2)[0]
    assert images[1].tobytes() == second.tobytes() != images[0].tobytes()


def test_stream_shows_each_step_and_ends_with_the_picture(pipeline):
    frames = list(pipeline.stream(requests_for(["cat"], 2, 0), settings_for(pipeline.model.config, 3)))
    assert [(frame.index, round(frame.t, 3)) for frame in frames] == [
        (0, 0.111), (0, 0.444), (0, 1), (1, 0.111), (1, 0.444), (1, 1)]
    assert frames[2].pixels.dtype == np.uint8 and frames[2].pixels.shape == (16, 16, 4)
    image = pipeline.generate("cat", seed=0, steps=3)[0]
    assert np.array_equal(frames[2].pixels, np.asarray(image))


def test_guidance_ends_where_it_is_told_to():
    """Two branches a call while t <= guide_until, then one, and the words decide alone."""
    calls = []

    def velocity(x, t, condition):
        calls.append((round(t[0].item(), 4), x.shape[0]))
        return mx.broadcast_to(condition.reshape(-1, 1, 1, 1), x.shape) - 0 * x

    words, nothing, noise = mx.ones((2, 1)), mx.zeros((1, 1)), mx.zeros((2, 4, 4, 4))
    made = sample(velocity, words, nothing, noise, 4, "euler", 3.0, guide_until=0.0625, last=0.4)
    times = time_grid(4, 0.4)
    assert calls == [(round(t, 4), 4 if t <= 0.0625 else 2) for t in times[:-1]]
    # The words alone say 1, guidance of 3 makes it 3: the way is shared out by times.
    end = next(t for t in times if t > 0.0625)
    np.testing.assert_allclose(np.array(made), 3 * end + (1 - end), rtol=1e-5)


def test_guidance_by_words_ends_early_unless_told_otherwise(pipeline):
    words, classes = pipeline.model.config, {"process": pipeline.model.config["process"], "classes": ["a", "b"]}
    assert settings_for(words).guide_until == GUIDE_UNTIL < 1
    assert settings_for(words, guide_until=1.0).guide_until == 1
    assert settings_for(classes).guide_until == 1 and settings_for(classes).guidance == 3
    first, second = (pipeline.generate("cat", steps=4, guide_until=until)[0] for until in (None, 1.0))
    assert not np.array_equal(first, second)
    assert "guide_until" not in Settings().described() and "guide_until" not in Settings(guidance=1, guide_until=0).described()
    assert Settings(guide_until=0.3).described() == {"steps": 16, "solver": "heun", "guidance": 3.0, "guide_until": 0.3}


def test_words_that_do_not_fit_are_left_out(pipeline):
    six = "a red cat on blue water"
    longer = f"{six} eats green apples"
    assert not pipeline.words_beyond(six) and pipeline.words_beyond(longer)
    assert all(mx.array_equal(a, b) for a, b in zip(pipeline.encode(six), pipeline.encode(longer)))


@pytest.mark.parametrize("settings, says", [
    ({"steps": 0}, "steps"), ({"steps": -3}, "steps"), ({"steps": 10**9}, "steps"),
    ({"solver": "foo"}, ", ".join(NAMES)), ({"guidance": -1.0}, "guidance"), ({"guidance": math.nan}, "guidance"),
    ({"guidance": math.inf}, "guidance"), ({"guide_until": -0.1}, "Guidance ends"),
    ({"guide_until": 1.5}, "Guidance ends"), ({"guide_until": math.nan}, "Guidance ends"), ({"negative": "   "}, "empty"),
    ({"negative": "dog", "guidance": 1.0}, "negative prompt"),
])
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(MlxflowError, match=says):
        Settings(**settings)


@pytest.mark.parametrize("prompt, says", [
    ("", "empty"), (" \n\t", "empty"), ("word " * 10_000, "50,000 characters"), ("caf\udce9", "UTF-8")])
def test_prompts_that_are_no_prompts_are_refused(prompt, says):
    with pytest.raises(MlxflowError, match=says):
        check_prompt(prompt)


@pytest.mark.parametrize("prompt", ["\u7b11\u8138", "...", "\u200d"])
def test_a_prompt_without_a_word_is_refused(pipeline, prompt):
    with pytest.raises(MlxflowError, match="no English word"):
        pipeline.generate(prompt)


@pytest.mark.parametrize("n, seed, says", [(0, 0, "number of pictures"), (-1, 0, "number of pictures"),
                                           (257, 0, "number of pictures"), (1, -1, "seed"), (1, MAX_SEED, "seed")])
def test_counts_and_seeds_out_of_range_are_refused(n, seed, says):
    with pytest.raises(MlxflowError, match=says):
        requests_for(["cat"], n, seed)


def test_the_digest_is_the_sha256_of_the_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert digest(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.skipif(not (weights_dir() / "emoji/model.safetensors").is_file(), reason="no weights are shipped yet")
def test_the_shipped_weights_follow_their_words():
    shipped = Pipeline.load("emoji")
    assert isinstance(shipped.words, WordTable)
    heart, sprout = (np.asarray(image, np.float32) for image in
                     shipped.generate(["red heart", "four leaf clover"], seed=3, steps=8))
    for picture, channel in ((heart, 0), (sprout, 1)):
        visible = picture[picture[..., 3] > 128]
        assert len(visible) > 300 and visible.mean(0)[:3].argmax() == channel
    assert (heart[[0, 0, -1, -1], [0, -1, 0, -1], 3] < 32).all(), "the corners are transparent"
