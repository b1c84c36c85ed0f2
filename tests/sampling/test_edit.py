"""Editing with a tiny random model, and with velocities whose answers are known."""

import numpy as np
import pytest

from mlxflow.data.images import unpremultiply
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx
from mlxflow.sampling import edit
from mlxflow.sampling.edit import End, backwards, invert, morph, on_circle, redraw, render, times_from
from mlxflow.sampling.pipeline import Request, Settings, time_grid

GENERATOR = np.random.default_rng(0)
SETTINGS = Settings(steps=6, guidance=2.0)


@pytest.fixture
def picture():
    """A soft disc, values float32 [16, 16, 4]."""
    y, x = np.mgrid[:16, :16] - 7.5
    alpha = np.clip(6.5 - np.hypot(x, y), 0, 1)[..., None]
    colour = np.stack([alpha[..., 0], alpha[..., 0] * 0.5, alpha[..., 0] * 0], -1)
    return (2 * np.concatenate([colour, alpha], -1) - 1).astype(np.float32)


def drawn(pipeline, prompt, seed, settings=SETTINGS):
    for frame in pipeline.stream([Request(prompt, seed)], settings):
        pass
    return frame.x


@pytest.mark.parametrize("start", [0.0, 0.3, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 16])
def test_times_go_from_the_start_to_the_data(start, steps):
    times = times_from(start, steps, 0.05)
    assert times[0] == start and times[-1] == 1 and (np.diff(times) > 0).all()
    assert times[-1] - times[-2] >= min(0.05, 1 - start) - 1e-9
    assert times_from(0.0, steps, 0.05) == time_grid(steps, 0.05)


def test_full_strength_is_drawing_from_noise(pipeline, picture):
    assert np.allclose(redraw(pipeline, picture, "cat", strength=1.0, seed=3, settings=SETTINGS),
                       drawn(pipeline, "cat", 3), atol=1e-5)


def test_more_strength_goes_farther_from_the_picture(pipeline, picture):
    away = [np.abs(redraw(pipeline, picture, "cat", strength=s, seed=3, settings=SETTINGS) - picture).mean()
            for s in (0.02, 0.5, 1.0)]
    assert away[0] < away[1] < away[2]


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("solver", ["heun", "euler", "sde"])
def test_inpainting_leaves_the_rest_to_the_bit(pipeline, picture, rounds, strength, solver):
    mask = np.zeros((16, 16), bool)
    mask[4:9, 5:14] = True
    settings = Settings(steps=4, solver=solver)
    made = redraw(pipeline, picture, "cat", strength=strength, mask=mask, rounds=rounds, seed=1, settings=settings)
    assert (made[~mask] == picture[~mask]).all() and np.abs(made - picture)[mask].max() > 0.05
    again = redraw(pipeline, picture, "cat", strength=strength, mask=mask, rounds=rounds, seed=1, settings=settings)
    other = redraw(pipeline, picture, "cat", strength=strength, mask=mask, rounds=rounds, seed=2, settings=settings)
    assert (made == again).all() and (made != other).any()


def test_the_known_part_is_seen_while_the_other_is_drawn(pipeline, picture):
    """What is drawn depends on what stands beside it."""
    mask = np.zeros((16, 16), bool)
    mask[:, 8:] = True
    beside = picture.copy()
    beside[:, :8] = -picture[:, :8]
    one, other = (redraw(pipeline, p, "cat", strength=1.0, mask=mask, seed=1, settings=SETTINGS) for p in (picture, beside))
    assert np.abs(one - other)[mask].mean() > 1e-3


def test_going_back_has_the_marginal_of_the_earlier_time(pipeline):
    x1, x0 = mx.full((1, 64, 64, 4), 0.7), mx.random.normal((1, 64, 64, 4), key=mx.random.key(0))
    for t, earlier in ((0.5, 0.2), (0.9, 0.0), (0.3, 0.29)):
        back = edit._back(pipeline, pipeline.path.sample(x0, x1, t), t, earlier, mx.random.key(1))
        assert back.mean().item() == pytest.approx(earlier * 0.7, abs=0.03)
        assert back.std().item() == pytest.approx(1 - earlier, abs=0.03)


@pytest.mark.parametrize("solver", ["heun"])
def test_solvers_run_backwards_return_to_where_they_came_from(pipeline, solver):
    """x -> noise -> x for the discrete flow itself, which plain backward steps miss."""
    velocity = edit.guided(pipeline, "cat", Settings(guidance=1.0))
    times = time_grid(16, pipeline.last)[:-1]
    x0 = mx.random.normal((1, 16, 16, 4), key=mx.random.key(5))
    x = x0
    for t, t_next in zip(times, times[1:]):
        x = edit.one_step(pipeline, velocity, x, t, t_next, solver).x
    found = backwards(pipeline, velocity, x, times, solver)
    back = found
    for t, t_next in zip(times, times[1:]):
        back = edit.one_step(pipeline, velocity, back, t, t_next, solver).x
    assert mx.abs(back - x).max().item() < 5e-3
    assert mx.abs(found - x0).max().item() < 0.02

    plain = x
    for t, earlier in zip(times[::-1], times[-2::-1]):
        plain = edit.one_step(pipeline, velocity, plain, t, earlier, solver).x
    assert mx.abs(plain - x0).max().item() > 5 * mx.abs(found - x0).max().item()


@pytest.mark.parametrize("prompt", ["", "cat"])
def test_inversion_and_the_same_words_give_the_picture_back(pipeline, picture, prompt):
    settings = Settings(steps=6, guidance=1.0)
    found = invert(pipeline, picture, prompt, settings=settings)
    made = render(pipeline, found, prompt, settings=settings)
    assert np.abs(made - picture).max() < 1e-5
    assert np.abs(unpremultiply(made).astype(int) - unpremultiply(picture)).max() <= 1


def test_a_drawn_picture_is_inverted_nearly_to_its_own_noise(pipeline):
    settings = Settings(steps=6, guidance=1.0)
    values = drawn(pipeline, "cat", 3, settings)
    noise = Request("cat", 3).noise((16, 16, 4))
    # z is the noise that it was made with: the last step's state is then nearly the one that it passed through.
    found = invert(pipeline, values, "cat", seed=3, settings=settings)
    likeness = (found.noise * noise).mean().item() / (mx.sqrt(mx.square(found.noise).mean() * mx.square(noise).mean())).item()
    assert likeness > 0.5
    words = render(pipeline, found, "dog", keep=0.0, settings=settings)
    assert np.abs(words - values).max() > 1e-3


def test_the_sde_cannot_be_run_backwards(pipeline, picture):
    with pytest.raises(MlxflowError, match="cannot be run backwards"):
        invert(pipeline, picture, settings=Settings(steps=3, guidance=1.0, solver="sde"))


def test_the_great_circle_keeps_the_length_of_noise():
    a, b = (mx.random.normal((1, 64, 64, 4), key=mx.random.key(i)) for i in (1, 2))
    for share in (0.0, 0.25, 0.5, 1.0):
        assert on_circle(a, b, share).std().item() == pytest.approx(1, abs=0.02)
    assert mx.allclose(on_circle(a, b, 0.0), a, atol=1e-5) and mx.allclose(on_circle(a, b, 1.0), b, atol=1e-5)
    assert mx.allclose(on_circle(a, a, 0.3), a, atol=1e-5)


def test_a_morph_begins_and_ends_with_the_two_and_moves_in_small_steps(pipeline):
    noise = Request("cat", 3).noise((16, 16, 4))
    frames = list(morph(pipeline, End(noise, "cat"), End(noise, "dog"), 9, SETTINGS))
    assert len(frames) == 9
    assert np.allclose(frames[0], drawn(pipeline, "cat", 3), atol=1e-4)
    assert np.allclose(frames[-1], drawn(pipeline, "dog", 3), atol=1e-4)
    whole = np.abs(frames[-1] - frames[0]).mean()
    assert whole > 1e-3 and max(np.abs(b - a).mean() for a, b in zip(frames, frames[1:])) < 0.7 * whole


@pytest.mark.parametrize("options, says", [({"strength": 0.0}, "strength"), ({"strength": 1.1}, "strength"),
                                           ({"strength": float("nan")}, "strength"), ({"strength": 1, "rounds": 0}, "rounds")])
def test_numbers_out_of_range_are_refused(pipeline, picture, options, says):
    with pytest.raises(MlxflowError, match=says):
        redraw(pipeline, picture, "cat", **options)
