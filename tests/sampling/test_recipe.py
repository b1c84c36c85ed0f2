import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling.formats import encode
from mlxflow.sampling.pipeline import MAX_SEED, Request, varied
from mlxflow.sampling.recipe import described, parse_seeds, read_recipe
from mlxflow.runtime import mx


@given(st.lists(st.one_of(st.integers(0, 2**40), st.tuples(st.integers(0, 2**40), st.integers(0, 20))), min_size=1,
                max_size=8))
def test_seeds_are_read_as_they_are_written(parts):
    text = ",".join(str(p) if isinstance(p, int) else f"{p[0]}-{p[0] + p[1]}" for p in parts)
    wanted = [s for p in parts for s in ([p] if isinstance(p, int) else range(p[0], p[0] + p[1] + 1))]
    assert parse_seeds(text) == wanted


@pytest.mark.parametrize("text", ["", "a", "-1", "1,", "1-", "5-1", "1.5", "0-256", f"{MAX_SEED}", "1 2", "9" * 30])
def test_other_seeds_are_refused(text):
    with pytest.raises(MlxflowError):
        parse_seeds(text)


REQUESTS = [Request("cat \u732b", 7), Request("dog", 2**40, ((0.3, 2), (0.1, 1)))]


@pytest.mark.parametrize("made", [described(r) for r in REQUESTS] + [{"pictures": [described(r) for r in REQUESTS]}])
def test_requests_survive_a_file(made, tmp_path):
    (tmp_path / "x.png").write_bytes(encode(Image.new("RGBA", (4, 4)), ".png", made, "x"))
    read = read_recipe(tmp_path / "x.png")
    assert read.requests == ([r for r in REQUESTS if described(r) == made] or REQUESTS)
    assert read.sheet == ("pictures" in made)


@pytest.mark.parametrize("made", [
    {}, {"prompt": "cat"}, {"prompt": "", "seed": 1}, {"prompt": 5, "seed": 1}, {"prompt": "cat", "seed": "7"},
    {"prompt": "cat", "seed": -1}, {"prompt": "cat", "seed": True}, {"prompt": "cat", "seed": 1, "variations": [[2, 1]]},
    {"prompt": "cat", "seed": 1, "variations": "x"}, {"pictures": []}, {"pictures": 3}, {"pictures": ["cat"]},
    {"prompt": "x" * 5000, "seed": 1}])
def test_metadata_that_were_tampered_with_are_refused(made, tmp_path):
    (tmp_path / "x.png").write_bytes(encode(Image.new("RGBA", (4, 4)), ".png", made, "x"))
    with pytest.raises(MlxflowError, match="not those of `mlxflow generate`"):
        read_recipe(tmp_path / "x.png")


def test_an_edited_picture_is_not_repeated_from_words(tmp_path):
    (tmp_path / "x.png").write_bytes(encode(Image.new("RGBA", (4, 4)), ".png", {"edit": "inpaint"}, "x"))
    with pytest.raises(MlxflowError, match="mlxflow edit inpaint"):
        read_recipe(tmp_path / "x.png")


def test_the_noise_of_a_variation_is_standard_and_as_near_as_its_strength():
    base = Request("cat", 3)
    for strength in (0.1, 0.5, 1.0):
        x, y = base.noise((64, 64, 4)), varied([base], strength, 2)[1].noise((64, 64, 4))
        assert abs(y.mean().item()) < 0.03 and abs(y.std().item() - 1) < 0.03
        assert (x * y).mean().item() == pytest.approx((1 - strength**2) ** 0.5, abs=0.03)
    first, second = (r.noise((64, 64, 4)) for r in varied([base], 1.0, 2))
    assert abs((first * second).mean().item()) < 0.03
    other = varied([Request("cat", 4)], 1.0, 1)[0].noise((64, 64, 4))
    assert abs((first * other).mean().item()) < 0.03
    again = varied(varied([base], 0.2, 1), 0.2, 1)[0]
    assert again.variations == ((0.2, 1), (0.2, 1)) and not mx.allclose(again.noise((4, 4, 4)), base.noise((4, 4, 4)))
