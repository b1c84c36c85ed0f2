"""Builds the emoji data folder: a 64x64 RGBA picture of each emoji, and `metadata.jsonl` with the captions.

The pictures come from a colour font or from the Noto artwork inside the package. What ships is trained on the
embedded artwork, so that everybody has the same data.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mlxflow.data.cldr import Emoji, load_emoji, to_text
from mlxflow.data.emoji_captions import captions
from mlxflow.data.folder import METADATA
from mlxflow.data.images import fit
from mlxflow.data.splits import assign_splits
from mlxflow.errors import MlxflowError
from mlxflow.paths import assets_dir

SOURCES = ("embedded", "noto", "apple")
# Of assets/noto-64.webp. A line of assets/noto-64.txt has the code points of a tile: several where Noto draws
# emoji alike.
TILE, COLUMNS = 64, 64
CREDITS = "LICENSE.txt"
MARK = "Made by `mlxflow data emoji`."  # the first line of the credits: a folder without it is never replaced

APPLE_FONT = Path("/System/Library/Fonts/Apple Color Emoji.ttc")
NOTO_FONTS = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf"),
    Path("/opt/homebrew/share/fonts/NotoColorEmoji.ttf"),
)
NOTO_LICENCE = (
    "artwork of Google's Noto Emoji: images Apache-2.0, font OFL-1.1; flags are in the public domain"
)
LICENCES = {
    "embedded": NOTO_LICENCE,
    "noto": NOTO_LICENCE,
    "apple": "artwork of Apple, from this Mac's font: private, as are weights trained on it",
    "font": "artwork of the font's maker: look at the font's licence before you pass it on",
}
UNICODE = "names and keywords: Unicode CLDR 48.2, Unicode-3.0 licence below"


@dataclass(frozen=True)
class Source:
    """Where the pictures come from."""

    kind: str  # a key of LICENCES
    style: str  # the word for it in the metadata: "noto", "apple" or the font's name
    font: Path | None
    note: str | None = None  # why an installed font was passed over

    @property
    def licence(self) -> str:
        return LICENCES[self.kind]

    def __str__(self) -> str:
        return "the embedded Noto artwork" if self.font is None else str(self.font)


@dataclass(frozen=True)
class Built:
    """What `build_emoji` made."""

    out: Path
    source: Source
    splits: dict[str, int]  # pictures by split

    @property
    def count(self) -> int:
        return sum(self.splits.values())


def build_emoji(
    out: str | Path,
    font: str | Path | None = None,
    source: str | None = None,
    size: int = 64,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Write the folder `out`: a PNG of size x size for each emoji, metadata.jsonl, and the credits.

    `font` is a colour font file; else `source` is "embedded", "noto" (installed font) or "apple" (macOS
    only); else the first of apple, noto and embedded that is there. The folder is written beside `out` and
    renamed, so `out` is complete or absent. `progress(done, total)` counts pictures. Raises MlxflowError when
    `out` is not empty and not `force`, when `force` would delete something else than an emoji folder, when
    `out` cannot be written, or when the font cannot be read.
    """
    out = Path(out)
    if not 1 <= size <= 1024:
        raise MlxflowError(f"A size of {size} pixels makes no sense: take one from 1 to 1024, usually 64.")
    chosen = find_source(font, source)
    _check_target(out, force)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    except OSError as error:
        raise MlxflowError(f"{out} cannot be written: {error.strerror}; choose another folder.") from None
    try:
        splits = _write(beside, chosen, size, progress)
        beside.chmod(0o755)
        _replace(out, beside)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        raise MlxflowError(f"{out} cannot be written: {error.strerror}; nothing was changed.") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Built(out, chosen, splits)


def find_source(font: str | Path | None = None, source: str | None = None) -> Source:
    """Which artwork `build_emoji` takes; MlxflowError when the one asked for is not there."""
    if source is not None and source not in SOURCES:
        raise MlxflowError(f"There is no source {source!r}: choose one of {', '.join(SOURCES)}.")
    if font is not None:
        if source is not None:
            raise MlxflowError("Give either a font or a source, not both.")
        if not Path(font).is_file():
            raise MlxflowError(f"{font}: there is no such font file.")
        return Source("font", _style_of(Path(font)), Path(font))
    if source == "embedded":
        return Source("embedded", "noto", None)
    apple = APPLE_FONT if sys.platform == "darwin" and APPLE_FONT.is_file() else None
    if source == "apple":
        if apple is None:
            raise MlxflowError("Apple Color Emoji is only on a Mac; use --source embedded here.")
        return Source("apple", "apple", apple)
    noto = None if apple and source is None else _installed_noto()
    if source == "noto":
        if noto is None:
            raise MlxflowError("Noto Color Emoji is not installed; install it, or use --source embedded.")
        return Source("noto", "noto", noto)
    if apple:
        return _if_readable(Source("apple", "apple", apple))
    return _if_readable(Source("noto", "noto", noto)) if noto else Source("embedded", "noto", None)


def _if_readable(found: Source) -> Source:
    """A font that nobody asked for must not make the command fail: then the embedded artwork does."""
    from mlxflow.data.fonts import ColourFont

    try:
        ColourFont(found.font, TILE)
    except MlxflowError as error:
        return Source("embedded", "noto", None, note=f"{found.font} was passed over: {error}")
    return found


def embedded_tiles() -> Iterator[tuple[str, np.ndarray]]:
    """(code points, uint8 [64, 64, 4] straight alpha) of the artwork inside the package, in chart order.

    Emoji that Noto draws alike follow each other with the same picture.
    """
    lines = (assets_dir() / "noto-64.txt").read_text(encoding="utf-8").splitlines()
    with Image.open(assets_dir() / "noto-64.webp") as image:
        sheet = np.asarray(image.convert("RGBA"))
    for i, line in enumerate(lines):
        y, x = i // COLUMNS * TILE, i % COLUMNS * TILE
        for code in line.split():
            yield code, sheet[y : y + TILE, x : x + TILE]


def metadata_row(emoji: Emoji, style: str, split: str, alike: Sequence[Emoji] = ()) -> dict:
    """One line of metadata.jsonl; `alike` are other emoji that the font draws with the same picture."""
    first, *others = dict.fromkeys(text for one in (emoji, *alike) for text in captions(one))
    return {
        "file_name": f"{emoji.codepoints}.png",
        "text": first,
        "texts": others,
        "keywords": list(emoji.keywords),
        "style": style,
        "split": split,
        "emoji": to_text(emoji.codepoints),
        "codepoints": emoji.codepoints,
        "also": [one.codepoints for one in alike],
        "base": emoji.base,
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "skin_tone": " and ".join(emoji.tones) or None,
        "gender": emoji.gender,
        "flag": emoji.flag,
    }


def _tiles(source: Source, size: int) -> Iterator[tuple[str, np.ndarray | None]]:
    if source.font is not None:
        from mlxflow.data.fonts import rasterize

        return rasterize(source.font, load_emoji(), size)
    return ((code, fit(Image.fromarray(pixels), size)) for code, pixels in embedded_tiles())


def _write(
    folder: Path, source: Source, size: int, progress: Callable[[int, int], None] | None
) -> dict[str, int]:
    table = load_emoji()
    alike: dict[str, list[Emoji]] = {}  # by the code points that name the file
    first: dict[bytes, str] = {}
    for done, (code, pixels) in enumerate(_tiles(source, size), 1):
        if progress:
            progress(done, len(table))
        if pixels is None or not pixels[..., 3].any():
            continue
        same = first.setdefault(pixels.tobytes(), code)
        if same == code:
            alike[code] = []
            Image.fromarray(pixels).save(folder / f"{code}.png")
        elif table[code].tones == table[same].tones:
            alike[same].append(table[code])
        # else the font shows no skin (a snowboarder): words for one would teach nothing
    if not alike:
        raise MlxflowError(f"{source} draws none of the emoji: choose a colour emoji font.")
    splits = assign_splits(alike)
    with open(folder / METADATA, "w", encoding="utf-8", newline="\n") as file:
        for code, others in alike.items():
            row = metadata_row(table[code], source.style, splits[code], others)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    licence = (assets_dir() / "LICENSE-unicode.txt").read_text(encoding="utf-8")
    credits = f"{MARK}\nPictures: {source.licence}.\nCaptions: {UNICODE}; the other captions are mlxflow's.\n"
    (folder / CREDITS).write_text(f"{credits}\n{licence}", encoding="utf-8")
    if progress:
        progress(len(table), len(table))
    return dict(Counter(splits.values()))


def _check_target(out: Path, force: bool) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise MlxflowError(f"{out} exists and is not a folder; choose another name.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise MlxflowError(
            f"{out} exists and is not empty; choose another folder, or replace it with --force."
        )
    if not _is_ours(out):
        raise MlxflowError(f"{out} holds other things than an emoji folder, so --force will not replace it.")


def _is_ours(folder: Path) -> bool:
    try:
        with open(folder / CREDITS, encoding="utf-8") as file:
            marked = file.readline().rstrip("\n") == MARK
    except (OSError, UnicodeDecodeError):
        return False
    ours = {METADATA, CREDITS, ".DS_Store", *(f"{code}.png" for code in load_emoji())}
    return marked and all(path.name in ours for path in folder.iterdir())


def _replace(out: Path, new: Path) -> None:
    """Put the folder `new` where `out` is. The old folder moves aside first and comes back if this fails."""
    if not out.exists():
        os.replace(new, out)
        return
    old = Path(f"{new}-old")
    os.replace(out, old)
    try:
        os.replace(new, out)
    except OSError:
        os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _installed_noto() -> Path | None:
    for path in NOTO_FONTS:
        if path.is_file():
            return path
    try:
        command = ["fc-match", "--format=%{family}\n%{file}", "Noto Color Emoji"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    family, _, file = found.partition("\n")
    return Path(file) if "Noto Color Emoji" in family and Path(file).is_file() else None


def _style_of(font: Path) -> str:
    """A word for a font's style: "noto" and "apple" for theirs, else the file's name."""
    name = re.sub(r"[^a-z0-9]+", "", font.stem.lower())
    return next((style for style in ("noto", "apple", "twemoji", "fluent") if style in name), name)
