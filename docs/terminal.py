"""Takes the picture of the terminal that README shows: python docs/terminal.py (docs/page.py takes all).

`mlxflow generate` runs in a pseudo-terminal of its own; what it writes moves a cursor over a grid of
characters as in any terminal that has 24-bit colour and no graphics. Half blocks are painted as rectangles,
all else in DejaVu Sans Mono or Pillow's own font.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
COLUMNS, ROWS = 80, 18
CELL, BACK, FORE = (10, 20), (24, 26, 32), (220, 222, 228)
COMMAND = ["generate", "smiling cat", "red heart", "--seed", "7"]
# The moment to show: the second picture is under way. (A step that is over in a moment is not shown.)
MOMENT = re.compile(r"picture 2 of 2, step ([5-9]|1\d) of 16[^\x1b]*")
TOKEN = re.compile(r"\x1b\[\??([\d;]*)([A-Za-z])|\x1b([78])|(\r)|(\n)|([^\x1b])")


class Screen:
    """A grid of (letter, foreground, background) and a cursor, for the sequences that live.py writes."""

    def __init__(self):
        self.lines = [self.empty() for _ in range(ROWS)]
        self.row = self.column = 0
        self.saved, self.colours = (0, 0), (FORE, BACK)

    @staticmethod
    def empty() -> list:
        return [(" ", FORE, BACK)] * COLUMNS

    def write(self, text: str) -> None:
        for numbers, letter, save, back, down, plain in TOKEN.findall(text):
            count = int(numbers) if numbers.isdigit() else 1
            if letter == "m":
                self.style([int(n or 0) for n in numbers.split(";")])
            elif letter in ("A", "B"):
                self.row = min(max(self.row + (count if letter == "B" else -count), 0), ROWS - 1)
            elif letter == "D":
                self.column = max(self.column - count, 0)
            elif letter == "K":
                self.lines[self.row][self.column:] = self.empty()[self.column :]
            elif save == "7":
                self.saved = self.row, self.column
            elif save == "8":
                self.row, self.column = self.saved
            elif back:
                self.column = 0
            elif down and self.row == ROWS - 1:
                self.lines = [*self.lines[1:], self.empty()]
            elif down:
                self.row += 1
            elif plain and self.column < COLUMNS:
                self.lines[self.row][self.column] = (plain, *self.colours)
                self.column += 1

    def style(self, numbers: list[int]) -> None:
        fore, back = self.colours
        while numbers:
            n = numbers.pop(0)
            if n == 0:
                fore, back = FORE, BACK
            elif n == 49:
                back = BACK
            elif n in (38, 48):
                found, numbers = tuple(numbers[1:4]), numbers[4:]
                fore, back = (found, back) if n == 38 else (fore, found)
        self.colours = fore, back

    def painted(self) -> Image.Image:
        image = Image.new("RGB", ((COLUMNS + 2) * CELL[0], (ROWS + 1) * CELL[1]), BACK)
        pen = ImageDraw.Draw(image)
        try:
            font = ImageFont.truetype("DejaVuSansMono.ttf", 16)
        except OSError:
            font = ImageFont.load_default(16)
        for row, line in enumerate(self.lines):
            for column, (letter, fore, back) in enumerate(line):
                x, y = (column + 1) * CELL[0], row * CELL[1] + CELL[1] // 2
                right, bottom, middle = x + CELL[0] - 1, y + CELL[1] - 1, y + CELL[1] // 2
                pen.rectangle((x, y, right, bottom), fill=back)
                if letter == "\u2580":
                    pen.rectangle((x, y, right, middle - 1), fill=fore)
                elif letter == "\u2584":
                    pen.rectangle((x, middle, right, bottom), fill=fore)
                elif letter in "\u2501\u2500":
                    pen.rectangle((x, middle - (2 if letter == "\u2501" else 0), right, middle), fill=fore)
                elif letter.strip():
                    pen.text((x, y), letter, font=font, fill=fore)
        return image


def written(command: list[str]) -> str:
    """What an mlxflow command writes to a terminal of that size, in an empty folder."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    root = str(HERE.parent)
    environment = os.environ | {"MLXFLOW_GRAPHICS": "blocks", "COLORTERM": "truecolor", "PYTHONPATH": root,
                                "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
    environment.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, "-m", "mlxflow", *command], stdin=child, stdout=child,
                                   stderr=child, cwd=folder, env=environment)
        os.close(child)
        sent = bytearray()
        try:
            while piece := os.read(parent, 1 << 16):
                sent.extend(piece)
        except OSError:  # the other end is closed
            pass
        os.close(parent)
        if process.wait():
            raise SystemExit(sent.decode(errors="replace"))
    return sent.decode()


def main(more: list[str]) -> None:
    """more: further options of the command, such as --weights."""
    text = written([*COMMAND, *more])
    if not (found := MOMENT.search(text)):
        raise SystemExit(f"The second picture was never shown half done: {text!r}")
    screen = Screen()
    asked = " ".join(f'"{word}"' if " " in word else word for word in COMMAND)
    screen.write(f"$ mlxflow {asked}\r\n{text[: found.end()]}")
    screen.painted().save(HERE / "terminal.png", optimize=True)
    print(HERE / "terminal.png", f"{(HERE / 'terminal.png').stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
