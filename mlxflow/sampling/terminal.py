"""Pictures in a terminal: by its graphics protocol where it has one, else in half-block characters.

    kitty    the kitty graphics protocol (kitty, Ghostty, Konsole): PNG in base64, in chunks of 4,096
    iterm    the inline images of iTerm2 (also WezTerm, mintty, rio): PNG in base64
    sixel    DEC's sixels (foot, mlterm, xterm -ti vt340, Windows Terminal, VS Code, ...): up to 255 colours
    blocks   U+2580 and U+2584 in 24-bit colour, or the 256 colours of old: a character is two pixels
    off      nothing

Each function gives the text that draws a picture from the cursor on, within `columns` x `rows` characters;
where it leaves the cursor differs, so that the caller saves and restores it. Nothing here writes to the
terminal but `detect`, which may ask it what it can do.
"""

import base64
import io
import os
import re
import select
from collections.abc import Mapping

import numpy as np
from PIL import Image

from mlxflow.errors import MlxflowError
from mlxflow.sampling.resize import resized

PROTOCOLS = ("kitty", "iterm", "sixel", "blocks", "off")
ESC = "\x1b"
_CHUNK = 4096
# Sixels are pixels: without the terminal's word, a character is the VT340's.
CELL = (10, 20)


def draw(
    image: Image.Image,
    protocol: str,
    columns: int,
    rows: int,
    *,
    true_colour: bool = True,
    cell: tuple[int, int] = CELL,
    number: int = 1,
) -> str:
    """The text that draws an RGBA picture into `columns` x `rows` characters.

    cell: a character in pixels (sixel). number: the picture that a new one takes the place of (kitty).
    """
    if protocol == "kitty":
        return kitty(image, columns, rows, number)
    if protocol == "iterm":
        return iterm(image, columns, rows)
    if protocol == "sixel":
        return sixel(resized(image, (columns * cell[0], rows * cell[1])))
    if protocol == "blocks":
        return blocks(resized(image, (columns, 2 * rows)), true_colour)
    return ""


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def kitty(image: Image.Image, columns: int, rows: int, number: int = 1) -> str:
    """Transmit and show (a=T) PNG data (f=100) as image `number` (1 to 4294967295), in place of the one of
    that number before, wherever it stood; the cursor stays (C=1).

    https://sw.kovidgoyal.net/kitty/graphics-protocol/: every chunk but the last has m=1, those after the
    first no other keys; q=2 asks for no answer; the picture is scaled to c by r characters.
    """
    data = base64.standard_b64encode(_png(image)).decode()
    chunks = [data[i : i + _CHUNK] for i in range(0, len(data), _CHUNK)]
    first = f"a=T,f=100,i={number},p=1,c={columns},r={rows},C=1,q=2,"
    return "".join(
        f"{ESC}_G{first if i == 0 else ''}m={int(i < len(chunks) - 1)};{chunk}{ESC}\\"
        for i, chunk in enumerate(chunks)
    )


def iterm(image: Image.Image, columns: int, rows: int) -> str:
    """OSC 1337 ; File = ... : base64 BEL, https://iterm2.com/documentation-images.html; width and height in
    characters. doNotMoveCursor is WezTerm's (https://wezterm.org/imgcat.html); other terminals move it.
    """
    content = _png(image)
    return (
        f"{ESC}]1337;File=inline=1;size={len(content)};width={columns};height={rows};preserveAspectRatio=0;"
        f"doNotMoveCursor=1:{base64.standard_b64encode(content).decode()}\a"
    )


def sixel(image: Image.Image) -> str:
    """DCS 0;1 q: pixels that are not set stay as they are. Bands of six rows; ! repeats, $ returns, -
    goes on.

    https://vt100.net/docs/vt3xx-gp/chapter14.html: " tells the ratio of a pixel's sides and the size, # the
    colours, as red, green and blue (2) in per cent.
    """
    from mlxflow.sampling.formats import to_palette

    image = to_palette(image.convert("RGBA"), 256, hard=True)
    index = np.asarray(image)
    height, width = index.shape
    palette = np.array(image.getpalette()[: 3 * 256]).reshape(-1, 3)
    parts = [f'{ESC}P0;1;0q"1;1;{width};{height}']
    parts += [
        f"#{c};2;" + ";".join(str(round(int(v) * 100 / 255)) for v in palette[c])
        for c in np.unique(index)
        if c
    ]
    bits = (1 << np.arange(6))[:, None]
    for top in range(0, height, 6):
        band = index[top : top + 6]
        lines = []
        for c in (c for c in np.unique(band) if c):
            values = ((band == c) * bits[: len(band)]).sum(0)
            lines.append(f"#{c}" + _runs(values))
        parts.append("$".join(lines) + "-")
    return "".join(parts) + f"{ESC}\\"


def _runs(values: np.ndarray) -> str:
    """Sixels of one colour, equal ones counted; those at the end that draw nothing are left out."""
    ends = np.flatnonzero(np.diff(values)) + 1
    starts, stops = [0, *ends.tolist()], [*ends.tolist(), len(values)]
    made = []
    for start, stop in zip(starts, stops):
        if values[start] == 0 and stop == len(values):
            continue
        letter, count = chr(63 + int(values[start])), stop - start
        made.append(f"!{count}{letter}" if count > 3 else letter * count)
    return "".join(made)


def blocks(image: Image.Image, true_colour: bool = True) -> str:
    """A picture of even height: each character shows two pixels, and transparent ones the terminal's own
    ground.

    Rows are parted by a move to the next line's same column, so that the text can stand anywhere.
    """
    pixels = np.asarray(image.convert("RGBA"))
    lines = []
    for top, bottom in zip(pixels[0::2], pixels[1::2]):
        line, style = [], ""
        for a, b in zip(top.tolist(), bottom.tolist()):
            up, down = a[3] >= 128, b[3] >= 128
            if up and down:
                wanted, letter = f"{_colour(a, 38, true_colour)};{_colour(b, 48, true_colour)}", "\u2580"
            elif up or down:
                wanted, letter = (
                    f"{_colour(a if up else b, 38, true_colour)};49",
                    "\u2580" if up else "\u2584",
                )
            else:
                wanted, letter = "0", " "
            if wanted != style:
                line.append(f"{ESC}[{wanted}m")
                style = wanted
            line.append(letter)
        lines.append("".join(line) + f"{ESC}[0m")
    return f"{ESC}[{image.width}D{ESC}[B".join(lines)


def _colour(pixel: list[int], ground: int, true_colour: bool) -> str:
    if true_colour:
        return f"{ground};2;{pixel[0]};{pixel[1]};{pixel[2]}"
    return f"{ground};5;{nearest_of_256(pixel)}"


def nearest_of_256(pixel: list[int]) -> int:
    """xterm's palette: the nearer of the 6 x 6 x 6 cube (16 to 231) and the greys (232 to 255)."""
    levels = (0, 95, 135, 175, 215, 255)
    steps = [min(range(6), key=lambda i, v=v: abs(levels[i] - v)) for v in pixel[:3]]
    grey = min(23, max(0, round((sum(pixel[:3]) / 3 - 8) / 10)))
    cube_error = sum((levels[i] - v) ** 2 for i, v in zip(steps, pixel))
    grey_error = sum((8 + 10 * grey - v) ** 2 for v in pixel[:3])
    return 232 + grey if grey_error < cube_error else 16 + 36 * steps[0] + 6 * steps[1] + steps[2]


def by_name(environment: Mapping[str, str]) -> str | None:
    """The protocol that the environment names, or None where only the terminal itself can say.

    MLXFLOW_GRAPHICS decides if it is set. tmux and screen do not pass kitty's and iTerm2's sequences on. VS
    Code shows pictures only where its setting terminal.integrated.enableImages is on, and then says that it
    has sixels.
    """
    chosen = environment.get("MLXFLOW_GRAPHICS")
    if chosen:
        if chosen not in PROTOCOLS:
            raise MlxflowError(
                f"MLXFLOW_GRAPHICS is '{chosen}': it must be {', '.join(PROTOCOLS[:-1])} or off."
            )
        return chosen
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term in ("", "dumb"):
        return "off"
    if _multiplexed(environment):
        return None
    if (
        "kitty" in term
        or "ghostty" in term
        or environment.get("KITTY_WINDOW_ID")
        or program == "ghostty"
        or environment.get("KONSOLE_VERSION")
    ):
        return "kitty"
    if (
        program in ("iTerm.app", "WezTerm", "mintty", "rio")
        or environment.get("LC_TERMINAL") == "iTerm2"
    ):
        return "iterm"
    if program == "Apple_Terminal" or term == "linux":
        return "blocks"
    return None


def detect(environment: Mapping[str, str] = os.environ, terminal: str = "/dev/tty") -> str:
    """The best protocol of the terminal that this process has: by the environment, else by asking it."""
    named = by_name(environment)
    return named if named is not None else _ask(terminal, kitty_too=not _multiplexed(environment))


def _multiplexed(environment: Mapping[str, str]) -> bool:
    """Whether tmux or screen stands between this process and the terminal."""
    return bool(environment.get("TMUX")) or environment.get("TERM", "").startswith(("screen", "tmux"))


# The primary device attributes, which every terminal answers. Before them a picture of one pixel that kitty's
# protocol only tries (a=q): where its answer does not come first, there are no kitty graphics (the protocol's
# own advice).
_ATTRIBUTES, _ATTRIBUTES_ARE = f"{ESC}[c", re.compile(rb"\x1b\[\?([\d;]*)c")
_TRY_KITTY, _KITTY_IS_THERE = f"{ESC}_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA{ESC}\\", b"\x1b_Gi=31;OK"


def _ask(terminal: str, kitty_too: bool, seconds: float = 0.15) -> str:
    """What the terminal says it has: "kitty", "sixel" (4 in its primary device attributes), or else "blocks".

    A terminal that has not answered within `seconds` is taken to have neither. kitty_too: tmux and screen
    would take the question for a window's title, and are not asked it.
    """
    try:
        import termios
        import tty

        device = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
    except (ImportError, OSError):
        return "blocks"
    try:
        before = termios.tcgetattr(device)
        try:
            tty.setcbreak(device)
            os.write(device, ((_TRY_KITTY if kitty_too else "") + _ATTRIBUTES).encode())
            answer = b""
            while not _ATTRIBUTES_ARE.search(answer) and select.select([device], [], [], seconds)[0]:
                answer += os.read(device, 256)
        finally:
            termios.tcsetattr(device, termios.TCSANOW, before)
    except (OSError, termios.error):
        return "blocks"
    finally:
        os.close(device)
    if _KITTY_IS_THERE in answer:
        return "kitty"
    found = _ATTRIBUTES_ARE.search(answer)
    return "sixel" if found and b"4" in found[1].split(b";")[1:] else "blocks"


def cell_size(device: int) -> tuple[int, int]:
    """A character's width and height in pixels, as the terminal says, else CELL."""
    try:
        import fcntl
        import struct
        import termios

        rows, columns, width, height = struct.unpack(
            "HHHH", fcntl.ioctl(device, termios.TIOCGWINSZ, b"\0" * 8)
        )
    except (ImportError, OSError):
        return CELL
    return (width // columns, height // rows) if min(rows, columns, width, height) > 0 else CELL
