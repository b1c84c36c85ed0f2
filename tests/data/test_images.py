"""Pictures from files: equal size, straight alpha, and nothing dangerous gets through."""

import io
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from mlxflow.data.images import load_all, load_rgba, premultiply, unpremultiply
from mlxflow.errors import MlxflowError


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@given(arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8), st.just(4))))
def test_premultiplied_values_come_back(pixels):
    values = premultiply(pixels)
    assert values.dtype == np.float32 and values.min() >= -1 and values.max() <= 1
    # A colour never exceeds its alpha, and a transparent pixel has one value only.
    assert (values[..., :3] <= values[..., 3:] + 1e-6).all()
    assert (values[pixels[..., 3] == 0] == -1).all()
    back = unpremultiply(values)
    visible = pixels[..., 3] > 0
    np.testing.assert_array_equal(back[visible], pixels[visible])
    assert (back[~visible] == 0).all()


def test_premultiply_is_the_formula():
    np.testing.assert_allclose(
        premultiply(np.array([[255, 51, 0, 102]], np.uint8)),
        [[2 * 0.4 - 1, 2 * 0.08 - 1, -1, 2 * 0.4 - 1]],
        atol=1e-6,
    )


def test_unpremultiply_clips_what_a_network_may_say():
    wild = np.array([[9.0, -9.0, 0.5, 0.0], [1.0, 1.0, 1.0, -1.5]], np.float32)
    np.testing.assert_array_equal(unpremultiply(wild), [[255, 0, 255, 128], [0, 0, 0, 0]])


def test_a_picture_of_the_right_size_keeps_its_pixels(tmp_path):
    pixels = noise((64, 64, 4))
    pixels[..., 3] |= 1
    pixels[:, :3, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = load_rgba(tmp_path / "a.png")
    np.testing.assert_array_equal(loaded[:, 3:], pixels[:, 3:])
    assert (loaded[:, :3] == 0).all()  # hidden colours are gone


@pytest.mark.parametrize("size", [32, 48, 128])
def test_hidden_colours_do_not_bleed_into_edges(tmp_path, size):
    # A white disc over transparent pixels that hide pure red.
    y, x = np.indices((64, 64)) - 31.5
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:] = (255, 0, 0, 0)
    pixels[x**2 + y**2 < 400] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = load_rgba(tmp_path / "a.png", size)
    edge = (loaded[..., 3] > 16) & (loaded[..., 3] < 255)
    assert edge.any()
    assert loaded[edge][:, :3].min() >= 240


def test_a_whole_reduction_is_the_mean_of_blocks(tmp_path):
    pixels = noise((128, 128, 3))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = load_rgba(tmp_path / "a.png")[..., :3].astype(float)
    means = pixels.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(loaded - means).max() <= 1  # rounded once per direction


@pytest.mark.parametrize("shape", [(20, 80), (80, 20)])
def test_what_is_not_square_is_padded_in_the_middle(tmp_path, shape):
    Image.new("RGB", (shape[1], shape[0]), (10, 200, 30)).save(tmp_path / "a.png")
    loaded = load_rgba(tmp_path / "a.png")
    if shape[0] > shape[1]:
        loaded = loaded.swapaxes(0, 1)
    rows = loaded[..., 3].all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(rows), np.arange(24, 40))
    assert (loaded[rows] == (10, 200, 30, 255)).all() and (loaded[~rows] == 0).all()


def test_every_mode_of_picture_shows_the_same(tmp_path):
    colour = Image.new("RGB", (64, 64), (200, 100, 50))
    saved = {
        "rgb.png": colour,
        "palette.png": colour.convert("P", palette=Image.Palette.ADAPTIVE),
        "a.bmp": colour,
        "a.webp": colour,
        "a.gif": colour,
        "a.jpg": colour,
    }
    for name, image in saved.items():
        image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        got = load_rgba(tmp_path / name)[32, 32].astype(int)
        assert np.abs(got - (200, 100, 50, 255)).max() <= 3, name
    cmyk = Image.fromarray(np.full((64, 64, 4), (255 - 200, 255 - 100, 255 - 50, 0), np.uint8), "CMYK")
    cmyk.save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(load_rgba(tmp_path / "cmyk.jpg")[32, 32].astype(int) - (200, 100, 50, 255)).max() <= 4


def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (64, 1))).save(tmp_path / "a.png")
    loaded = load_rgba(tmp_path / "a.png")
    np.testing.assert_array_equal(loaded[5, :, 0], ramp // 257)
    assert (loaded[..., 3] == 255).all()


def test_grey_with_alpha_and_a_transparent_palette_keep_their_alpha(tmp_path):
    pixels = noise((64, 64, 2))
    Image.fromarray(pixels, "LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(load_rgba(tmp_path / "la.png")[..., 3], pixels[..., 1])
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(0, (0, 0, 64, 32))
    palette.save(tmp_path / "p.png", transparency=0)
    loaded = load_rgba(tmp_path / "p.png")
    assert (loaded[:32] == 0).all() and (loaded[32:] == (255, 0, 0, 255)).all()


def test_only_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(load_rgba(tmp_path / "a.gif")[0, 0]) == (255, 0, 0, 255)


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    image = Image.new("RGB", (64, 64), "black")
    image.paste("white", (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is the right side of the file
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    loaded = load_rgba(tmp_path / "a.jpg")
    assert loaded[32, 48, 0] > 240 and loaded[32, 16, 0] < 15


def bomb(width, height):
    """A PNG of a few bytes that says it is huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7100, 10_000, 60_000])
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    with pytest.raises(MlxflowError, match=r"bomb\.png: .*more than 50 megapixels"):
        load_rgba(tmp_path / "bomb.png")


def test_broken_files_are_named(tmp_path):
    good = io.BytesIO()
    Image.fromarray(noise((64, 64, 4))).save(good, "PNG")
    bad = {
        "empty.png": b"",
        "text.png": b"no picture",
        "cut.png": good.getvalue()[:500],
        "flipped.png": good.getvalue()[:60] + b"\xff" * 40 + good.getvalue()[100:],
        "page.png": b"%!PS-Adobe-3.0 EPSF-3.0\n",  # PostScript would start an interpreter
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MlxflowError, match=name):
            load_rgba(tmp_path / name)
    with pytest.raises(MlxflowError, match="no such picture"):
        load_rgba(tmp_path / "missing.png")
    with pytest.raises(MlxflowError, match="not a picture"):
        load_rgba(tmp_path)


def test_load_all_keeps_the_order_and_counts(tmp_path):
    pictures = noise((20, 64, 64, 4))
    pictures[..., 3] = 255
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    records = [SimpleNamespace(path=tmp_path / f"{i}.png") for i in range(20)]
    seen = []
    loaded = load_all(records[::-1], progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(loaded, pictures[::-1])
    assert seen == [(i, 20) for i in range(1, 21)]
    (tmp_path / "7.png").write_bytes(b"broken")
    with pytest.raises(MlxflowError, match=r"7\.png"):
        load_all(records)


def test_load_all_of_nothing_is_empty():
    assert load_all([]).shape == (0, 64, 64, 4)
