import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling.canvas import Canvas, open_picture

GENERATOR = np.random.default_rng(0)


def picture(width, height, mode="RGBA"):
    pixels = GENERATOR.integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from(["RGBA", "RGB", "L"]), st.integers(0, 2**32 - 1))
def test_outside_of_the_mask_every_pixel_is_the_original(width, height, mode, seed):
    generator = np.random.default_rng(seed)
    image = picture(width, height, mode)
    canvas = Canvas.of(image, 64)
    mask = generator.random((height, width)) < 0.3
    made = np.asarray(canvas.picture(generator.uniform(-1, 1, (64, 64, 4)).astype(np.float32), mask))
    original = np.asarray(image.convert("RGBA"))
    assert made.shape == original.shape and (made[~mask] == original[~mask]).all()


@st.composite
def boxes(draw):
    width, height = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return width, height, (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height)))


@settings(max_examples=30, deadline=None)
@given(boxes())
@example((1, 58, (0, 4, 1, 5)))
def test_the_small_mask_is_wherever_the_large_one_has_any_part(case):
    width, height, (left, top, right, bottom) = case
    canvas = Canvas.of(picture(width, height), 64)
    mask = canvas.box(f"{left},{top},{right},{bottom}")
    assert mask.sum() == (right - left) * (bottom - top) and mask[top:bottom, left:right].all()
    # In units of 1/64 of the picture's pixel, so that everything is whole.
    side = max(width, height)
    x, y = (side - width) // 2, (side - height) // 2
    edges = np.arange(65) * side
    columns = (edges[:-1] < (right + x) * 64) & (edges[1:] > (left + x) * 64)
    rows = (edges[:-1] < (bottom + y) * 64) & (edges[1:] > (top + y) * 64)
    assert (canvas.small(mask) == rows[:, None] & columns).all()


def test_a_picture_of_the_right_size_is_taken_and_given_back_as_it_is():
    pixels = np.asarray(picture(64, 64)).copy()
    pixels[..., 3] = 255
    canvas = Canvas.of(Image.fromarray(pixels), 64)
    assert (np.asarray(canvas.picture(canvas.values)) == pixels).all()


def test_a_wide_picture_lies_in_the_middle():
    canvas = Canvas.of(Image.new("RGB", (128, 64), "red"), 64)
    alpha = canvas.values[..., 3]
    assert (alpha[:16] == -1).all() and (alpha[16:48] == 1).all() and (alpha[48:] == -1).all()
    half = np.zeros((64, 128), bool)
    half[:, 64:] = True
    assert canvas.small(half)[:, :32].sum() == 0 and canvas.small(half)[16:48, 32:].all()


def test_masks_are_light_and_opaque():
    canvas = Canvas.of(Image.new("RGB", (4, 4)), 64)
    drawn = Image.new("RGBA", (4, 4), "black")
    drawn.putpixel((1, 2), (255, 255, 255, 255))
    drawn.putpixel((0, 0), (255, 255, 255, 10))
    mask = canvas.mask(drawn)
    assert mask.sum() == 1 and mask[2, 1]
    for wrong, says in ((Image.new("L", (4, 4)), "empty"), (Image.new("L", (5, 4), 255), "must be equal")):
        with pytest.raises(MlxflowError, match=says):
            canvas.mask(wrong)


@pytest.mark.parametrize("box", ["", "1,2,3", "0,0,5,4", "-1,0,2,2", "2,0,2,3", "3,0,1,3", "a,b,c,d", "0,0,1.5,2"])
def test_other_boxes_are_refused(box):
    with pytest.raises(MlxflowError, match="[Tt]he box"):
        Canvas.of(Image.new("RGB", (4, 4)), 64).box(box)


def test_files_that_are_no_pictures_are_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no")
    for file, says in ((tmp_path / "x.png", "not a picture"), (tmp_path / "y.png", "no such picture")):
        with pytest.raises(MlxflowError, match=says):
            open_picture(file)
