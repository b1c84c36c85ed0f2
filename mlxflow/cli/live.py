"""What a terminal shows while pictures are drawn: the pictures so far, and a bar with steps and time.

All on standard error, and nothing where that is no terminal. The newest pictures stand side by side and stay
when the work is done; the bar goes.
"""

import os
import secrets
import shutil
import sys
import time
from types import TracebackType

# A picture of 64 x 64 is half its size in characters: two pixels high, and one character for two pixels wide.
COLUMNS, ROWS = 32, 16
BAR = 24
# Pictures a second at most; a terminal far away is slow.
_RATE = 15


def wants_pictures(show: bool | None) -> bool:
    """Whether to show pictures: asked for, or not asked and NO_COLOR not set; only on a terminal."""
    if not sys.stderr.isatty() or show is False:
        return False
    return show is True or not os.environ.get("NO_COLOR")


class Live:
    """`with Live(...) as live:` then live.step(...) after each step of each picture, and live.say(path) for
    results.

    total: pictures; steps: of each; show: True, False, or None for what the terminal can.
    """

    def __init__(self, total: int, steps: int, show: bool | None = None):
        self.total, self.steps = total, steps
        self.out = sys.stderr
        self.tty = self.out.isatty()
        self.protocol, self.strip, self.fit = "off", {}, 1
        if wants_pictures(show):
            from mlxflow.sampling.terminal import cell_size, detect

            self.protocol = detect()
            if self.protocol == "off" and show is True and not os.environ.get("MLXFLOW_GRAPHICS"):
                self.protocol = "blocks"
            size = shutil.get_terminal_size()
            self.fit = max(1, min(4, total, (size.columns - 1) // (COLUMNS + 1)))
            if size.columns <= COLUMNS or size.lines <= ROWS + 1:
                self.protocol = "off"
            self.cell = cell_size(self.out.fileno())
        self.true_colour = os.environ.get("COLORTERM", "") in ("truecolor", "24bit") or \
            os.environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm", "vscode", "ghostty")
        # A picture of kitty's protocol takes the place of the one of its number, even an earlier command's.
        self.number = 1 + secrets.randbelow(2**32 - 1)
        self.held: list[str] = []
        self.started = self.drawn = 0.0
        self.open = False

    def __enter__(self) -> "Live":
        self.started = time.monotonic()
        if self.tty:
            # Room for the pictures and the bar, so that nothing scrolls while they are redrawn.
            rows = ROWS if self.protocol != "off" else 0
            self.out.write("\x1b[?25l" + "\n" * rows + (f"\x1b[{rows}A" if rows else ""))
            self.open = True
            self._bar(0, 0)
        return self

    def step(self, index: int, step: int, pixels, t: float) -> None:
        """Picture `index` (from 0) has done `step` steps and looks like `pixels` (uint8 [S, S, 4]); t = 1 is
        done.
        """
        if not self.open:
            return
        now = time.monotonic()
        self.strip[index] = pixels
        if now - self.drawn < 1 / _RATE and t < 1:
            return
        if self.protocol != "off":
            self._pictures()
        self._bar(index, step)
        self.drawn = now

    def say(self, text: str) -> None:
        """A line of standard output; on a terminal it waits until the pictures are done."""
        if self.open and sys.stdout.isatty():
            self.held.append(text)
        else:
            print(text, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.open:
            rows = ROWS if self.protocol != "off" else 0
            self.out.write("\r" + (f"\x1b[{rows}B" if rows and self.strip else "") + "\x1b[K\x1b[?25h")
            self.out.flush()
            self.open = False
        for text in self.held:
            print(text, flush=True)

    def _pictures(self) -> None:
        from PIL import Image

        from mlxflow.sampling.resize import resized
        from mlxflow.sampling.terminal import draw

        newest = [self.strip[index] for index in sorted(self.strip)[-self.fit :]]
        self.strip = dict(sorted(self.strip.items())[-self.fit :])
        side, gap = 2 * ROWS, 1
        if self.protocol != "blocks":
            side, gap = max(64, newest[0].shape[0]), max(64, newest[0].shape[0]) // COLUMNS
        board = Image.new("RGBA", (len(newest) * (side + gap) - gap, side))
        for i, pixels in enumerate(newest):
            board.paste(resized(Image.fromarray(pixels), side), (i * (side + gap), 0))
        columns = len(newest) * (COLUMNS + 1) - 1
        # Old pixels under transparent ones would shine through.
        clear = "" if self.protocol in ("kitty", "blocks") else "\x1b[K\n" * ROWS + f"\x1b[{ROWS}A"
        text = draw(board, self.protocol, columns, ROWS, true_colour=self.true_colour, cell=self.cell,
                    number=self.number)
        self.out.write(f"\r{clear}\x1b7{text}\x1b8")

    def _bar(self, index: int, step: int) -> None:
        """Picture `index` has done `step` steps, those before it all of theirs."""
        rows = ROWS if self.protocol != "off" else 0
        seconds = time.monotonic() - self.started
        share = min(1.0, (index + step / self.steps) / self.total)
        full = int(share * BAR)
        left = f", {seconds / share * (1 - share):.0f} s left" if 0 < share < 1 and seconds > 2 else ""
        which = f"picture {index + 1} of {self.total}, " if self.total > 1 else ""
        text = f"Drawing {'━' * full}{'─' * (BAR - full)} {which}step {step} of {self.steps}, {seconds:.1f} s{left}"
        text = text[: max(10, shutil.get_terminal_size().columns - 1)]
        down, up = (f"\x1b[{rows}B", f"\x1b[{rows}A") if rows else ("", "")
        self.out.write(f"\r{down}{text}\x1b[K\r{up}")
        self.out.flush()
