"""What a terminal gets while pictures are drawn, seen from its other end."""

import base64
import io
import os
import re
import struct
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from mlxflow.cli.live import BAR, COLUMNS, ROWS, Live
from tests.sampling.test_terminal import read_sixel

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")


@pytest.fixture
def terminal(monkeypatch):
    """terminal(columns, rows) makes standard error a terminal of that size; .read() is what was sent since it last told."""
    import fcntl
    import pty
    import termios

    parent, child = pty.openpty()
    sent = bytearray()

    def listen():
        try:
            while piece := os.read(parent, 1 << 16):
                sent.extend(piece)
        except OSError:  # the other end is closed
            pass

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    stream = open(child, "w", encoding="utf-8")

    class Terminal:
        def __call__(self, columns=100, rows=40):
            fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 10 * columns, 20 * rows))
            monkeypatch.setenv("COLUMNS", str(columns))
            monkeypatch.setenv("LINES", str(rows))
            monkeypatch.setattr(sys, "stderr", stream)
            return self

        def read(self):
            """What was sent since the last time: up to a word that nobody else says."""
            stream.write("\0end")
            stream.flush()
            while not sent.endswith(b"\0end"):
                time.sleep(0.005)
            text = sent[: -len(b"\0end")].decode().replace("\r\n", "\n")
            # Else the word of this time would be taken for that of the next.
            sent.clear()
            return text

    for name in ("NO_COLOR", "TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "KONSOLE_VERSION", "LC_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    yield Terminal()
    stream.close()
    listener.join(5)
    os.close(parent)


def picture(seed=0, size=8):
    """A few large pixels, opaque or not."""
    pixels = np.random.default_rng(seed).integers(0, 2, (size, size, 4), np.uint8) * 255
    pixels[0, 0] = 255
    return pixels


def draw(terminal, protocol, monkeypatch, pixels, show=None, total=1, size=(100, 40)):
    monkeypatch.setenv("MLXFLOW_GRAPHICS", protocol)
    terminal(*size)
    with Live(total, 4, show) as live:
        live.step(0, 4, pixels, 1.0)
    return terminal.read()


@pytest.mark.parametrize("protocol, pattern", [("kitty", r"\x1b_G[^;]*;([^\x1b]*)\x1b\\"), ("iterm", r"1337;File=[^:]*:([^\x07]*)\x07")])
def test_the_picture_arrives_whole(terminal, monkeypatch, protocol, pattern):
    text = draw(terminal, protocol, monkeypatch, picture())
    data = base64.b64decode("".join(re.findall(pattern, text)))
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    assert shown.shape == (64, 64, 4) and ((shown[4::8, 4::8, 3] > 127) == (picture()[..., 3] > 127)).all()


def test_pictures_of_kitty_replace_each_other_and_not_those_of_the_command_before(terminal, monkeypatch):
    monkeypatch.setenv("MLXFLOW_GRAPHICS", "kitty")
    terminal()
    for _ in range(2):
        with Live(1, 2) as live:
            live.step(0, 1, picture(), 0.5)
            live.step(0, 2, picture(1), 1.0)
    numbers = re.findall(r"\x1b_Ga=T,[^;]*i=(\d+)", terminal.read())
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3] and len(numbers) == 4


def test_sixels_arrive_whole(terminal, monkeypatch):
    text = draw(terminal, "sixel", monkeypatch, picture())
    shown = read_sixel(re.search(r"\x1bP.*?\x1b\\", text, re.DOTALL)[0].replace("\n", ""))
    assert shown.shape[:2] == (20 * ROWS, 10 * COLUMNS)
    assert ((shown[20::40, 20::40, 3] > 127) == (picture()[..., 3] > 127)).all()


def test_half_blocks_and_a_bar_arrive_and_the_bar_goes(terminal, monkeypatch):
    text = draw(terminal, "blocks", monkeypatch, picture())
    assert "\u2580" in text and f"Drawing {'━' * BAR} step 4 of 4" in text
    assert text.endswith("\x1b[K\x1b[?25h") and text.count("\x1b[?25l") == 1


def test_the_bar_says_which_picture_and_how_far(terminal, monkeypatch):
    monkeypatch.setenv("MLXFLOW_GRAPHICS", "off")
    terminal()
    with Live(2, 4) as live:
        live.step(0, 4, picture(), 1.0)
        live.step(1, 4, picture(), 1.0)
    half, whole = "━" * (BAR // 2) + "─" * (BAR // 2), "━" * BAR
    wanted = [("─" * BAR, 1, 0), (half, 1, 4), (whole, 2, 4)]
    bars = re.findall(r"Drawing (\S+) picture (\d) of 2, step (\d) of 4", terminal.read())
    assert [(bar, int(number), int(step)) for bar, number, step in bars] == wanted


@pytest.mark.parametrize("protocol, show, size", [("off", None, (100, 40)), ("blocks", False, (100, 40)),
                                                  ("blocks", None, (20, 40)), ("blocks", None, (100, 10))])
def test_only_a_bar_where_pictures_are_not_wanted_or_have_no_room(terminal, monkeypatch, protocol, show, size):
    text = draw(terminal, protocol, monkeypatch, picture(), show, size=size)
    assert "\u2580" not in text and "Drawing" in text and "\x1b7" not in text


def test_no_color_is_respected_unless_asked_otherwise(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\u2580" not in draw(terminal, "blocks", monkeypatch, picture())
    assert "\u2580" in draw(terminal, "blocks", monkeypatch, picture(), show=True)


def test_nothing_at_all_where_standard_error_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setenv("MLXFLOW_GRAPHICS", "kitty")
    with Live(1, 4, True) as live:
        live.step(0, 4, picture(), 1.0)
        live.say("cat.png")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("cat.png\n", "")


def test_an_error_leaves_the_cursor_visible(terminal, monkeypatch):
    monkeypatch.setenv("MLXFLOW_GRAPHICS", "blocks")
    terminal()
    with pytest.raises(KeyboardInterrupt), Live(1, 4) as live:
        live.step(0, 1, picture(), 0.5)
        raise KeyboardInterrupt
    assert terminal.read().endswith("\x1b[?25h")


def test_the_newest_pictures_that_fit_stand_side_by_side(terminal, monkeypatch):
    monkeypatch.setenv("MLXFLOW_GRAPHICS", "kitty")
    terminal(70, 40)
    with Live(5, 1) as live:
        for i in range(5):
            live.step(i, 1, picture(i), 1.0)
        last = terminal.read().split("\x1b_Ga=T")[-1]
    assert f"c={2 * COLUMNS + 1},r={ROWS}" in last
    data = base64.b64decode("".join(re.findall(r"m=\d;([^\x1b]*)\x1b\\", last)))
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    for place, which in ((0, 3), (66, 4)):
        assert ((shown[4::8, place + 4 : place + 64 : 8, 3] > 127) == (picture(which)[..., 3] > 127)).all()
