"""The bytes of each protocol, decoded again by readers that are written from the protocols' descriptions."""

import base64
import io
import os
import re
import termios
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling.terminal import blocks, by_name, cell_size, detect, draw, iterm, kitty, nearest_of_256, sixel


def noise(size, seed=0, hard=False):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 4), np.uint8)
    if hard:
        pixels[..., 3] = np.where(pixels[..., 3] > 127, 255, 0)
    return Image.fromarray(pixels)


def test_kitty_sends_the_png_in_chunks_of_4096():
    image = noise((64, 64))
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text := kitty(image, 32, 16))
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in commands) == text
    first = dict(pair.split("=") for pair in commands[0][0].split(","))
    assert {"a": "T", "f": "100", "c": "32", "r": "16", "C": "1", "q": "2", "i": "1"}.items() <= first.items()
    assert [keys for keys, _ in commands[1:]] == ["m=1"] * (len(commands) - 2) + ["m=0"]
    assert all(len(data) <= 4096 for _, data in commands) and all(len(data) % 4 == 0 for _, data in commands)
    assert [keys.endswith("m=1") for keys, _ in commands] == [True] * (len(commands) - 1) + [False] and len(commands) > 2
    decoded = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in commands))))
    assert (np.asarray(decoded) == np.asarray(image)).all()


def test_iterm_sends_the_png_with_its_length():
    image = noise((64, 64))
    keys, data = re.fullmatch(r"\x1b\]1337;File=([^:]*):([A-Za-z0-9+/=]*)\x07", iterm(image, 32, 16)).groups()
    given_ = dict(pair.split("=") for pair in keys.split(";"))
    content = base64.b64decode(data)
    assert int(given_["size"]) == len(content) and (given_["inline"], given_["width"], given_["height"]) == ("1", "32", "16")
    assert (np.asarray(Image.open(io.BytesIO(content))) == np.asarray(image)).all()


def read_sixel(text):
    """uint8 [H, W, 4]; transparent where no sixel is set."""
    width, height, body = re.fullmatch(r'\x1bP0;1;0q"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL).groups()
    canvas = np.zeros((int(height) + 6, int(width), 4), np.uint8)
    palette, colour, x, y = {}, None, 0, 0
    token = re.compile(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|(\$)|(-)")
    at = 0
    while at < len(body):
        found = token.match(body, at)
        assert found, body[at : at + 20]
        at = found.end()
        number, r, g, b, count, repeated, single, back, down = found.groups()
        if number is not None:
            if r is not None:
                palette[int(number)] = [round(int(v) * 255 / 100) for v in (r, g, b)]
            colour = int(number)
        elif back:
            x = 0
        elif down:
            x, y = 0, y + 6
        else:
            value, length = ord(repeated or single) - 63, int(count or 1)
            for bit in range(6):
                if value >> bit & 1:
                    canvas[y + bit, x : x + length] = [*palette[colour], 255]
            x += length
            assert x <= int(width)
    return canvas[: int(height)]


@pytest.mark.parametrize("size", [(12, 20), (13, 7), (64, 64), (1, 1)])
def test_sixels_are_the_picture(size):
    few = np.array([[250, 0, 0, 255], [0, 200, 90, 255], [0, 0, 0, 0], [20, 20, 220, 255]], np.uint8)
    pixels = few[np.random.default_rng(1).integers(0, 4, size)]
    pixels[0, 0] = few[0]
    made = read_sixel(sixel(Image.fromarray(pixels)))
    assert made.shape == pixels.shape and (made[..., 3] == pixels[..., 3]).all()
    assert np.abs(made.astype(int) - pixels)[pixels[..., 3] > 0].max() <= 3


def read_blocks(text):
    """uint8 [H, W, 4] from characters and SGR codes, by a cursor that moves as a terminal's."""
    cells, style, row, column = {}, ["0"], 0, 0
    for sgr, back, down, letter in re.findall(r"\x1b\[([\d;]*)m|\x1b\[(\d+)D|(\x1b\[B)|(.)", text):
        if back:
            column -= int(back)
        elif down:
            row += 1
        elif letter:
            cells[row, column] = (letter, style)
            column += 1
        else:
            style = sgr.split(";")

    def ground(style, code):
        codes = iter(style)
        for found in codes:
            if found in ("38", "48"):
                assert next(codes) == "2"
                colour = [int(next(codes)) for _ in range(3)]
                if found == code:
                    return colour
        return None

    rows, columns = max(r for r, _ in cells) + 1, max(c for _, c in cells) + 1
    made = np.zeros((2 * rows, columns, 4), np.uint8)
    for (r, c), (letter, style) in cells.items():
        fore, back = ground(style, "38"), ground(style, "48")
        for offset, colour in enumerate({"\u2580": (fore, back), "\u2584": (back, fore), " ": (None, None)}[letter]):
            if colour is not None:
                made[2 * r + offset, c] = [*colour, 255]
    return made


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 99))
def test_half_blocks_are_the_picture(rows, columns, seed):
    image = noise((2 * rows, columns), seed, hard=True)
    wanted = np.asarray(image).copy()
    wanted[wanted[..., 3] == 0] = 0
    made = read_blocks(blocks(image))
    assert (made[: 2 * rows, :columns] == wanted[: len(made), : made.shape[1]]).all()
    assert not wanted[len(made) :].any() and blocks(image).endswith("\x1b[0m")


def test_the_256_colours_of_old_are_the_nearest():
    levels = (0, 95, 135, 175, 215, 255)
    palette = {16 + 36 * r + 6 * g + b: (levels[r], levels[g], levels[b]) for r in range(6) for g in range(6) for b in range(6)}
    palette |= {232 + i: (8 + 10 * i,) * 3 for i in range(24)}
    for pixel in np.random.default_rng(0).integers(0, 256, (50, 3)).tolist() + [[0, 0, 0], [255, 255, 255], [128] * 3]:
        def error(number):
            return sum((a - b) ** 2 for a, b in zip(palette[number], pixel))
        assert error(nearest_of_256(pixel)) == min(map(error, palette))
    assert "38;5;" in blocks(noise((2, 2), 1), true_colour=False)


def test_a_picture_fits_the_room_that_it_is_given():
    assert read_sixel(draw(noise((64, 64)), "sixel", 4, 2, cell=(10, 20))).shape[:2] == (40, 40)
    assert len(draw(noise((64, 64), hard=True), "blocks", 8, 4).split("\x1b[8D\x1b[B")) == 4
    assert draw(noise((4, 4)), "off", 8, 4) == ""


@pytest.mark.parametrize("environment, wanted", [
    ({"TERM": "xterm-kitty"}, "kitty"), ({"TERM": "xterm-ghostty"}, "kitty"), ({"TERM": "xterm", "KONSOLE_VERSION": "2"}, "kitty"),
    ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"), ({"TERM": "x", "TERM_PROGRAM": "WezTerm"}, "iterm"),
    ({"TERM": "x", "TERM_PROGRAM": "vscode"}, None), ({"TERM": "linux"}, "blocks"),
    ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "blocks"), ({"TERM": "dumb"}, "off"), ({}, "off"),
    ({"TERM": "tmux-256color", "TMUX": "/tmp/x", "TERM_PROGRAM": "WezTerm"}, None), ({"TERM": "foot"}, None),
    ({"TERM": "dumb", "MLXFLOW_GRAPHICS": "sixel"}, "sixel")])
def test_terminals_by_name(environment, wanted):
    assert by_name(environment) == wanted


def test_an_unknown_protocol_is_refused():
    with pytest.raises(MlxflowError, match="MLXFLOW_GRAPHICS is 'vga'"):
        by_name({"MLXFLOW_GRAPHICS": "vga"})


KITTY_OK, KITTY_BAD = b"\x1b_Gi=31;OK\x1b\\", b"\x1b_Gi=31;ENOTSUPPORTED:no\x1b\\"


@pytest.mark.parametrize("term", ["foot", "tmux-256color"])
@pytest.mark.parametrize("answers, wanted", [
    ([b"\x1b[?62;4;22c"], "sixel"), ([b"\x1b[?64;1;2c"], "blocks"), ([], "blocks"), ([b"\x1b[?4c"], "blocks"),
    ([KITTY_OK, b"\x1b[?62;22c"], "kitty"), ([KITTY_OK + b"\x1b[?62;4c"], "kitty"),
    ([KITTY_BAD, b"\x1b[?62;4c"], "sixel"), ([b"\x1b[?6", b"2;4c"], "sixel")])
def test_a_terminal_is_asked_for_pictures(answers, wanted, term):
    import pty

    parent, child = pty.openpty()
    asked = b""

    def terminal():
        nonlocal asked
        while not asked.endswith(b"\x1b[c"):
            asked += os.read(parent, 64)
        for answer in answers:
            os.write(parent, answer)
            time.sleep(0.01)

    thread = threading.Thread(target=terminal)
    thread.start()
    before = termios.tcgetattr(child)
    assert detect({"TERM": term}, os.ttyname(child)) == wanted
    thread.join()
    assert termios.tcgetattr(child) == before
    if term == "foot":
        assert b"a=q" in re.fullmatch(rb"\x1b_G([^;]*);AAAA\x1b\\\x1b\[c", asked)[1].split(b",")
    else:  # tmux would make the rest its title
        assert asked == b"\x1b[c"
    os.close(parent)
    os.close(child)


def test_without_a_terminal_nobody_is_asked():
    assert detect({"TERM": "foot"}, "/dev/null") == "blocks" and cell_size(os.open(os.devnull, os.O_RDONLY)) == (10, 20)
