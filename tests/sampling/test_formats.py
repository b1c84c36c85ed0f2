import io
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mlxflow import __version__
from mlxflow.data.images import premultiply
from mlxflow.errors import MlxflowError
from mlxflow.sampling import formats, metadata
from mlxflow.sampling.formats import ANIMATED, SUFFIXES, encode, encode_frames, suffix_of
from mlxflow.sampling.resize import resized

MADE = {"prompt": "smiling <cat> & \u732b \U0001f638 ]]> | mlxflow {", "seed": 2**62, "guidance": 2.5}


def smooth(size=64):
    """A disc with soft edges over a gradient of colours."""
    y, x = np.mgrid[:size, :size]
    alpha = np.clip(size * 0.4 - np.hypot(x - size / 2, y - size / 2) + 0.5, 0, 1)
    pixels = np.stack([x * 255 / size, y * 255 / size, 0 * x + 90, 255 * alpha], -1).astype(np.uint8)
    pixels[pixels[..., 3] == 0] = 0
    return Image.fromarray(pixels)


def opened(content):
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("suffix", [".png", ".apng", ".webp"])
def test_lossless_formats_keep_every_pixel(suffix):
    assert (np.asarray(opened(encode(smooth(), suffix, MADE, "x"))) == np.asarray(smooth())).all()


def test_a_gif_is_there_or_not_and_near_in_colour():
    made = np.asarray(opened(encode(smooth(), ".gif")).convert("RGBA")).astype(int)
    real = np.asarray(smooth()).astype(int)
    there = real[..., 3] >= 128
    assert (made[..., 3] == 255 * there).all()
    assert np.abs(made - real)[there][..., :3].mean() < 6


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_a_picture_with_a_background_stays_opaque(suffix):
    made = opened(encode(smooth().convert("RGB"), suffix)).convert("RGBA")
    assert made.getchannel("A").getextrema() == (255, 255)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_made_it_is_read_back_or_left_out(suffix, tmp_path):
    file = tmp_path / f"x{suffix}"
    file.write_bytes(encode(smooth(), suffix, MADE, MADE["prompt"]))
    assert metadata.read(file) == MADE | {"version": __version__}
    assert encode(smooth(), suffix, MADE, "x") == encode(smooth(), suffix, MADE, "x")
    file.write_bytes(encode(smooth(), suffix))
    assert metadata.read(file) is None
    assert b"mlxflow" not in file.read_bytes() and b"mlxflow" in encode(smooth(), suffix, MADE, "x")


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=20, deadline=None)
@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_prompt_survives(suffix, prompt, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / f"any{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "TRACED", 8)  # tracing is not what is tested
        file.write_bytes(encode(Image.new("RGBA", (4, 4), (9, 9, 9, 255)), suffix, {"prompt": prompt}, prompt))
    assert metadata.read(file)["prompt"] == prompt


def test_pictures_of_others_say_nothing_and_broken_ones_are_refused(tmp_path):
    file = tmp_path / "x.png"
    smooth().save(file)
    assert metadata.read(file) is None
    for text in ('<svg xmlns="http://www.w3.org/2000/svg"/>', "<svg><broken", '<?xml version="1.0"?><!DOCTYPE svg '
                 '[<!ENTITY a "made_by">]><svg><made_by>&a;</made_by></svg>'):
        file.write_text(text)
        assert metadata.read(file) is None
    for content, says in ((b"not a picture", "not a picture"), (encode(smooth(), ".png")[:60], "not a picture")):
        file.write_bytes(content)
        with pytest.raises(MlxflowError, match=says):
            metadata.read(file)
    with pytest.raises(MlxflowError, match="no such picture"):
        metadata.read(tmp_path / "missing.png")


@pytest.mark.parametrize("suffix", ANIMATED)
def test_an_animation_keeps_frames_and_times(suffix, tmp_path):
    second = Image.fromarray(np.asarray(smooth())[::-1].copy())
    empty = Image.new("RGBA", (64, 64))
    file = tmp_path / f"x{suffix}"
    file.write_bytes(encode_frames([smooth(), second, empty, smooth()], [100, 50, 70, 900], suffix, MADE, "x"))
    assert metadata.read(file)["seed"] == MADE["seed"]
    with Image.open(file) as made:
        assert made.n_frames == 4 and made.info["loop"] == 0
        for i, wanted in enumerate((smooth(), second, empty, smooth())):
            made.seek(i)
            made.load()
            assert made.info["duration"] == [100, 50, 70, 900][i]
            alpha = np.asarray(made.convert("RGBA").getchannel("A")).astype(int)
            real = np.asarray(wanted.getchannel("A")).astype(int)
            assert np.abs(alpha - (255 * (real >= 128) if suffix == ".gif" else real)).max() == 0


# -- SVG

def path_points(data, steps=8):
    """Polygons of an SVG path of absolute M, L, C and Z."""
    polygons, here = [], (0.0, 0.0)
    for letter, text in re.findall(r"([MLCZ])([^MLCZ]*)", data):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", text)]
        points = list(zip(numbers[::2], numbers[1::2]))
        if letter == "M":
            polygons.append([points[0]])
        elif letter == "L":
            polygons[-1] += points
        elif letter == "C":
            for i in range(0, len(points), 3):
                p = np.array([here, *points[i : i + 3]])
                for t in np.linspace(1 / steps, 1, steps):
                    polygons[-1].append(tuple(np.array([(1 - t)**3, 3 * t * (1 - t)**2, 3 * t * t * (1 - t), t**3]) @ p))
                here = polygons[-1][-1]
        here = polygons[-1][-1]
    return polygons


def drawn(svg):
    """The SVG's paths, painted over one another: uint8 [S, S, 4]."""
    root = ElementTree.fromstring(svg)
    size = [int(v) for v in root.get("viewBox").split()[2:]]
    canvas = np.zeros((size[1], size[0], 4), np.uint8)
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        shift = [float(v) for v in re.findall(r"-?[\d.]+", path.get("transform", "translate(0,0)"))]
        inside = np.zeros((size[1], size[0]), bool)
        for polygon in path_points(path.get("d")):
            mask = Image.new("1", size)
            if len(polygon) > 1:
                ImageDraw.Draw(mask).polygon([(x + shift[0], y + shift[1]) for x, y in polygon], fill=1)
            inside ^= np.asarray(mask)
        canvas[inside] = (*bytes.fromhex(path.get("fill")[1:]), 255)
    return Image.fromarray(canvas)


def test_an_svg_looks_like_the_picture():
    picture = np.asarray(smooth()).copy()
    picture[..., :3] = np.where(picture[..., :1] < 128, [250, 200, 20], [30, 60, 200])
    picture = Image.fromarray(picture)
    svg = encode(picture, ".svg", MADE, "x")
    made, real = drawn(svg), resized(picture, 512)
    root = ElementTree.fromstring(svg)
    assert (root.get("width"), root.get("viewBox")) == ("64", "0 0 512 512")
    difference = np.abs(premultiply(np.asarray(made)) - premultiply(np.asarray(real)))
    assert difference.mean() < 0.06
    assert (np.asarray(made)[..., 3] > 0).mean() == pytest.approx((np.asarray(real)[..., 3] >= 128).mean(), abs=0.01)


def test_svg_without_vtracer_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "vtracer", None)
    with pytest.raises(MlxflowError, match=r"SVG needs vtracer: pip install 'mlxflow\[svg\]'"):
        encode(smooth(), ".svg")


def test_endings():
    assert suffix_of("a/b.PNG") == ".png"
    with pytest.raises(MlxflowError, match="written as PNG, WEBP, GIF, APNG, SVG: 'x.jpg' should end in .png"):
        suffix_of("x.jpg")
    with pytest.raises(MlxflowError, match="There is no format '.bmp'"):
        formats.encode(smooth(), ".bmp")
