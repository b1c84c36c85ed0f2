"""A screen of a terminal as a picture: `tmux capture-pane -p -e | python docs/terminal_to_png.py terminal.png`.

Reads text with SGR colours (24-bit, 256 and the default), as tmux prints what a pane shows; half blocks are painted as
rectangles, all else in DejaVu Sans Mono or Pillow's own font.
"""

import re
import sys

from PIL import Image, ImageDraw, ImageFont

CELL, BACK, FORE = (10, 20), (24, 26, 32), (220, 222, 228)


def colour_256(number: int) -> tuple[int, ...]:
    """xterm's colours 16 to 255; the first 16 are not used here."""
    if number >= 232:
        return (8 + 10 * (number - 232),) * 3
    levels = (0, 95, 135, 175, 215, 255)
    return levels[(number - 16) // 36], levels[(number - 16) // 6 % 6], levels[(number - 16) % 6]


def styled(fore, back, codes: str):
    """Foreground and background after an SGR sequence."""
    numbers = [int(n or 0) for n in codes.split(";")]
    while numbers:
        n = numbers.pop(0)
        if n == 0:
            fore, back = FORE, BACK
        elif n in (39, 49):
            fore, back = (FORE, back) if n == 39 else (fore, BACK)
        elif n in (38, 48):
            kind = numbers.pop(0)
            found = tuple(numbers[:3]) if kind == 2 else colour_256(numbers[0])
            del numbers[: 3 if kind == 2 else 1]
            fore, back = (found, back) if n == 38 else (fore, found)
    return fore, back


def main() -> None:
    lines = sys.stdin.read().rstrip("\n").split("\n")
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    width, height = max(map(len, plain)) + 2, len(lines) + 1
    image = Image.new("RGB", (width * CELL[0], height * CELL[1]), BACK)
    pen = ImageDraw.Draw(image)
    try:
        font = ImageFont.truetype("DejaVuSansMono.ttf", 16)
    except OSError:
        font = ImageFont.load_default(16)
    fore, back = FORE, BACK
    for row, line in enumerate(lines):
        column = 1
        for codes, letter in re.findall(r"\x1b\[([\d;]*)m|(.)", line):
            if not letter:
                fore, back = styled(fore, back, codes)
                continue
            x, y = column * CELL[0], row * CELL[1] + CELL[1] // 2
            box = (x, y, x + CELL[0] - 1, y + CELL[1] - 1)
            middle = y + CELL[1] // 2
            pen.rectangle(box, fill=back)
            if letter == "\u2580":
                pen.rectangle((x, y, box[2], middle - 1), fill=fore)
            elif letter == "\u2584":
                pen.rectangle((x, middle, box[2], box[3]), fill=fore)
            elif letter in "\u2501\u2500":
                pen.rectangle((x, middle - (2 if letter == "\u2501" else 0), box[2], middle), fill=fore)
            elif letter.strip():
                pen.text((x, y), letter, font=font, fill=fore)
            column += 1
    image.save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
