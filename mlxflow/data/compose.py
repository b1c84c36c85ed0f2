"""Compositions of the artwork, made on the fly: they teach that words combine.

    recolour    a thing in another colour                                "blue apple"
    dress       something with glasses, a hat, heart eyes, tears         "cat with a crown"
    express     a thing with eyes and a mouth that feel something        "angry strawberry"
    pair        two things side by side, or one on the other             "pizza and beer", "cat on a rocket"
    hold        somebody who holds, eats or reads something              "koala with a balloon"
    count       two or three of a thing, perhaps in another colour       "two red cars"
    emblem      a thing that stands on another                           "cup with a heart on it"
    change      a thing on fire, or with wings                           "book on fire"

A composition belongs to one of eight parts by a hash of what it combines; the last part is kept unseen, so that
combinations of known things can be asked for that no training picture shows; nor does any caption say what a novel
prompt says (data/novel.py), or name a real picture. Everything random comes from the generator that the
caller seeds. Pictures are uint8 `[S, S, 4]`, straight alpha.
"""

import hashlib
import json
import re
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from mlxflow.data.expressions import EXPRESSIONS, PLAIN_FACES, bare_disc, features, inner_square, with_features
from mlxflow.data.folder import Record
from mlxflow.data.novel import shows_novel
from mlxflow.data.recolour import COLOURS, RAINBOW, dominant_hue, far_from, is_gray, recolour
from mlxflow.paths import assets_dir

_COLOUR_WORD = re.compile(rf"\b({'|'.join(COLOURS)}|grey|golden?|{RAINBOW}|beige|dark|light|blond|skin|hair)\b")
_PLAIN_GROUPS = ("Animals & Nature", "Food & Drink", "Objects", "Travel & Places", "Activities", "Smileys & Emotion")
_THINGS = _PLAIN_GROUPS[:5]
# How often each kind is drawn.
_SHARES = {"recolour": 3, "dress": 3, "express": 3, "pair": 2, "hold": 2, "count": 1, "emblem": 1, "change": 1}
# A draw gives up after so many: of a few pictures, all that can be made may be kept from training.
_ATTEMPTS = 1000
# The least side, of 64 pixels, of the square that a face or an emblem is drawn into.
_LEAST_SQUARE = 22

# code points: wordings, where it goes. Eyes: a pair of glasses; top: stands on the head; each: one on every eye;
# under: one under every eye.
WEARABLE = {
    "1F576": (("wearing sunglasses", "with sunglasses", "in dark glasses"), "eyes"),
    "1F453": (("wearing glasses", "with glasses", "with eyeglasses"), "eyes"),
    "1F3A9": (("wearing a top hat", "with a top hat", "in a black top hat"), "top"),
    "1F451": (("wearing a crown", "with a crown", "with a golden crown on"), "top"),
    "1F393": (("wearing a graduation cap", "with a graduation cap"), "top"),
    "1F452": (("wearing a straw hat", "with a sun hat", "in a straw hat with a bow", "wearing a hat"), "top"),
    "1F9E2": (("wearing a baseball cap", "with a blue cap", "in a cap"), "top"),
    "1F380": (("with a pink bow", "wearing a bow", "with a ribbon on the head"), "top"),
    "1F33B": (("with a sunflower on the head", "with a flower on top"), "top"),
    "2764": (("with heart eyes", "with hearts for eyes", "in love with heart eyes"), "each"),
    "2B50": (("with star eyes", "with stars for eyes", "starstruck"), "each"),
    "1F4A7": (("crying", "with tears", "in tears"), "under"),
}
# What is done with a thing, by the subgroup that it belongs to.
_DOING = {"food": ("eating a", "eating", "with a", "holding a"), "drink": ("drinking a", "with a", "holding a"),
          "book-paper": ("reading a", "with a", "holding a"), "musical-instrument": ("playing a", "with a", "holding a"),
          "sport": ("playing", "with a", "holding a")}
_DOING_ANY = ("holding a", "with a", "carrying a")
# How a colour is said, where there is more than one word for it.
_SAID = {"gray": ("gray", "grey"), RAINBOW: (RAINBOW, "rainbow colored"), "golden": ("golden", "gold")}
_FIRE, _WING, _HEART, _STAR = "1F525", "1FABD", "2764", "2B50"


class Placement(NamedTuple):
    """Where a picture lies in a composition: the pixel at (u, v) of it goes to (scale_x u + shift_x, scale_y v + shift_y), of
    squares from -1 to 1. part: which of what is combined it shows; a scale below 0 mirrors it."""

    part: int
    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float


@cache
def anchors() -> dict[str, dict]:
    """Faces by code points: eyes, head and head_top in pixels of the 64x64 Noto tile; only faces seen from the front."""
    with open(assets_dir() / "face_anchors.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["codepoints"]: row for row in rows if row["clean"] and row.get("left_eye") and row.get("right_eye")}


def unseen(*parts: str) -> bool:
    """Whether this combination is kept out of training (one in eight, by hash)."""
    return hashlib.sha256("+".join(parts).encode()).digest()[0] % 8 == 0


def _visible(image: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the visible part."""
    return Image.fromarray(image, "RGBA").getchannel("A").point(lambda a: 255 * (a > 20)).getbbox()


def _cropped(image: np.ndarray) -> Image.Image:
    """The visible part, premultiplied."""
    return Image.fromarray(image, "RGBA").crop(_visible(image)).convert("RGBa")


def _scaled(picture: Image.Image, width: float, height: float | None = None) -> Image.Image:
    """To a width, or into a box of width and height; the shape is kept."""
    factor = width / picture.width if height is None else min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _over(canvas: Image.Image, picture: Image.Image, x: float, y: float) -> None:
    """Lays a premultiplied picture over a premultiplied canvas, its upper left corner at (x, y), which may be outside."""
    layer = Image.new("RGBa", canvas.size)
    layer.paste(picture, (round(x), round(y)))
    below, above = np.asarray(canvas, np.float32), np.asarray(layer, np.float32)
    mixed = above + below * (1 - above[..., 3:] / 255)
    canvas.paste(Image.fromarray(np.clip(mixed.round(), 0, 255).astype(np.uint8), "RGBa"))


class Composer:
    """Makes compositions of the base pictures among `records`; images: uint8 `[N, S, S, 4]` in their order.

    Pictures that are not of the embedded kind (no code points, no group) give recolourings, pairs and counts only.
    """

    def __init__(self, records: list[Record], images: np.ndarray):
        self.records, self.images, self.size = records, images, images.shape[1]
        self.placed: list[Placement] = []
        self.names = {record.text.lower() for record in records}
        self.by_code = {r.extra.get("codepoints"): i for i, r in enumerate(records) if r.extra.get("codepoints")}
        plain = [i for i, r in enumerate(records) if r.extra.get("group", "Objects") in _PLAIN_GROUPS]
        hues = {i: dominant_hue(images[i]) for i in plain if _name(records[i])}
        self.hues = {i: hue for i, hue in hues.items() if hue is not None or is_gray(images[i])}
        noto = {code: i for code, i in self.by_code.items() if records[i].style == "noto"}
        self.faces = [i for code, i in noto.items() if code in anchors()]
        self.wearable = [code for code in WEARABLE if code in self.by_code]
        self.things = [i for i in plain if records[i].extra.get("group", "Objects") in _THINGS
                       and 1 <= len(_name(records[i]).split()) <= 2]
        least = _LEAST_SQUARE * self.size / 64
        squares = {i: inner_square(images[i][..., 3]) for i in self.things if i not in self.faces}
        self.squares = {i: square for i, square in squares.items() if square[2] >= least}
        self.lifeless = [i for i in self.squares if not _is_animal(records[i])]
        self.somebody = self.faces + [i for i in self.things if _is_animal(records[i]) and i not in self.faces]
        self.cuts = self._expressions(noto)
        self.feelings = [f for f, codes in EXPRESSIONS.items() if any(code in self.cuts for code in codes)]
        fit = {"recolour": self.hues, "dress": self.faces and self.wearable, "express": self.lifeless and self.feelings,
               "pair": len(self.things) > 1, "hold": self.somebody and self.things, "count": self.things,
               "emblem": self.squares and self.things,
               "change": self.things and (_FIRE in self.by_code or _WING in self.by_code)}
        self.kinds = [kind for kind, share in _SHARES.items() for _ in range(share) if fit[kind]]

    def _expressions(self, noto: dict[str, int]) -> dict[str, np.ndarray]:
        """Eyes and mouths by the code points of their faces."""
        wanted = {code for codes in (*EXPRESSIONS.values(), PLAIN_FACES) for code in codes if code in noto}
        round_faces = [self.images[i] for code, i in noto.items() if anchors().get(code, {}).get("family") == "round"]
        yellow = [face for face in round_faces if 35 <= (dominant_hue(face) or 0) <= 55]
        if not wanted or not yellow:
            return {}
        disc = bare_disc(np.stack(yellow))
        cuts = {code: features(self.images[noto[code]], disc) for code in sorted(wanted)}
        return {code: cut for code, cut in cuts.items() if cut.size}

    def draw(self, generator: np.random.Generator, *, kept: bool = True) -> tuple[np.ndarray, str]:
        """A picture and its caption, from the combinations that training may see (or, kept=False, the unseen ones).

        Raises ValueError when nothing here can be combined so.
        """
        for _ in range(_ATTEMPTS if self.kinds else 0):
            kind = self.kinds[generator.integers(len(self.kinds))]
            picture, caption, seen = self.attempt(kind, generator)
            if seen == kept:
                return picture, caption
        raise ValueError("nothing here can be combined")

    def attempt(self, kind: str, generator: np.random.Generator) -> tuple[np.ndarray, str, bool | None]:
        """A picture of a kind (one of `kinds`), its caption, and whether training may see it: None for what nobody
        should be shown, since a real picture has that name or a novel prompt says it."""
        picture, caption, _, seen = self.combine(kind, generator)
        return picture, caption, seen

    def combine(self, kind: str, generator: np.random.Generator) -> tuple[np.ndarray, str, tuple[str, ...], bool | None]:
        """As `attempt`, with what was combined, before whether training may see it: file names of pictures, code points
        of what is worn, a colour, a feeling, a number. `placed` then says where pictures lie, from back to front; it is
        empty where one is only changed."""
        self.placed = []
        picture, caption, parts = getattr(self, f"_{kind}")(generator)
        fit = caption not in self.names and not shows_novel(caption)
        return picture, caption, parts, not unseen(kind, *parts) if fit else None

    def said(self, index: int, generator: np.random.Generator) -> str:
        """What a caption calls a picture: its name."""
        return _name(self.records[index])

    def _one_of(self, generator, indices):
        return indices[generator.integers(len(indices))]

    def _coloured(self, generator, index: int, share: float) -> tuple[np.ndarray, str]:
        """The picture and its name; in a share of cases, where it has one colour, in another and with that in the name."""
        image, name = self.images[index], self.said(index, generator)
        if index not in self.hues or generator.random() >= share:
            return image, name
        colour = self._one_of(generator, [c for c in far_from(self.hues[index])
                                          if not unseen("recolour", self.records[index].file_name, c)])
        return recolour(image, self.hues[index], colour), f"{colour} {name}"

    def _recolour(self, generator):
        index = self._one_of(generator, list(self.hues))
        hue, name = self.hues[index], self.said(index, generator)
        colour = self._one_of(generator, far_from(hue))
        said = self._one_of(generator, _SAID.get(colour, (colour,)))
        caption = f"{name} in {said}" if generator.random() < 0.15 else f"{said} {name}"
        return recolour(self.images[index], hue, colour), caption, (self.records[index].file_name, colour)

    def _dress(self, generator):
        """On a face where its eyes and head are; on a thing as if the square inside it were the face."""
        on_face = not self.squares or generator.random() < 0.6
        index = self._one_of(generator, self.faces if on_face else list(self.squares))
        code = self.wearable[generator.integers(len(self.wearable))]
        wordings, place = WEARABLE[code]
        image, name = self._coloured(generator, index, 0.2)
        at = _face_of(self.records[index], self.size) if on_face else _face_in(self.squares[index], image)
        scale, left, top = (0.8, 0.1 * self.size, 0.2 * self.size) if place == "top" else (1.0, 0.0, 0.0)
        canvas = self._canvas()
        whole = Image.fromarray(image, "RGBA").convert("RGBa")
        canvas.paste(whole.resize((round(self.size * scale),) * 2, Image.Resampling.LANCZOS), (round(left), round(top)))
        self.placed.append(Placement(0, scale, scale, scale - 1 + 2 * left / self.size, scale - 1 + 2 * top / self.size))
        point = {k: v * scale + (left, top) for k, v in at.items() if k != "width"}
        between, head = float(np.hypot(*(point["right_eye"] - point["left_eye"]))), at["width"] * scale
        worn = self.by_code[code]
        thing = self._cut(worn)
        if place == "eyes":
            thing = _scaled(thing, 2.15 * between)
            x, y = (point["left_eye"] + point["right_eye"]) / 2
            self._lay(canvas, thing, x - thing.width / 2, y - thing.height / 2, 1, worn)
        elif place == "top":
            thing = _scaled(thing, 0.62 * head, 0.44 * self.size)
            x, y = point["head_top"]
            self._lay(canvas, thing, x - thing.width / 2, y + 0.09 * head - thing.height, 1, worn)
        else:
            thing = _scaled(thing, (0.85 if place == "each" else 0.5) * between)
            for eye in ("left_eye", "right_eye"):
                x, y = point[eye]
                y = y - thing.height / 2 if place == "each" else y + 0.1 * between
                self._lay(canvas, thing, x - thing.width / 2, y, 1, worn)
        return _shown(canvas), f"{name} {self._one_of(generator, wordings)}", (self.records[index].file_name, code)

    def _express(self, generator):
        index = self._one_of(generator, self.lifeless)
        image, name = self._coloured(generator, index, 0.2)
        if generator.random() < 0.2 and self.cuts.keys() & PLAIN_FACES:
            feeling, codes = "plain", PLAIN_FACES
            caption = f"{name} {self._one_of(generator, ('with a face', 'with a smiley face', 'with a cute face'))}"
        else:
            feeling = self._one_of(generator, self.feelings)
            codes = EXPRESSIONS[feeling]
            ways = (*(f"{feeling} {name}",) * 3, f"{name} with a {feeling} face", f"a {feeling} {name}",
                    f"{name} that is {feeling}")
            caption = self._one_of(generator, ways)
        code = self._one_of(generator, [c for c in codes if c in self.cuts])
        return with_features(image, self.cuts[code], self.squares[index]), caption, (self.records[index].file_name, feeling)

    def _pair(self, generator):
        one, two = (self.things[i] for i in generator.choice(len(self.things), 2, replace=False))
        (image, a), (other, b) = self._coloured(generator, one, 0.1), self._coloured(generator, two, 0.1)
        size, canvas = self.size, self._canvas()
        first, second = _cropped(image), _cropped(other)
        if generator.random() < 0.5:
            first, second = (_scaled(p, 0.5 * size, 0.72 * size) for p in (first, second))
            for part, (picture, x, index) in enumerate(((first, 0.25 * size, one), (second, 0.75 * size, two))):
                self._lay(canvas, picture, x - picture.width / 2, 0.82 * size - picture.height, part, index)
            caption = f"{a} {self._one_of(generator, ('and', 'with', 'next to', 'and a'))} {b}"
        else:
            first, second = _scaled(first, 0.62 * size, 0.5 * size), _scaled(second, 0.8 * size, 0.56 * size)
            bottom = size - second.height
            self._lay(canvas, second, (size - second.width) / 2, bottom, 1, two)
            self._lay(canvas, first, (size - first.width) / 2, bottom + 0.06 * size - first.height, 0, one)
            caption = f"{a} {self._one_of(generator, ('on', 'on a', 'on top of', 'sitting on a', 'riding a'))} {b}"
        return _shown(canvas), caption, (self.records[one].file_name, self.records[two].file_name)

    def _hold(self, generator):
        who, what = self._one_of(generator, self.somebody), self._one_of(generator, self.things)
        (image, a), (other, b) = self._coloured(generator, who, 0.1), self._coloured(generator, what, 0.1)
        subgroup = self.records[what].extra.get("subgroup") or ""
        doing = next((ways for start, ways in _DOING.items() if subgroup.startswith(start)), _DOING_ANY)
        size, canvas = self.size, self._canvas()
        first = _scaled(_cropped(image), 0.84 * size, 0.84 * size)
        second = _scaled(_cropped(other), 0.46 * size, 0.46 * size)
        self._lay(canvas, first, 0.02 * size, 0.02 * size, 0, who)
        self._lay(canvas, second, 0.98 * size - second.width, 0.98 * size - second.height, 1, what)
        caption = f"{a} {self._one_of(generator, doing)} {b}"
        return _shown(canvas), caption, (self.records[who].file_name, self.records[what].file_name)

    def _count(self, generator):
        index, three = self._one_of(generator, self.things), generator.random() < 0.35
        image, name = self._coloured(generator, index, 0.4)
        size, canvas = self.size, self._canvas()
        picture = _scaled(_cropped(image), 0.49 * size, (0.48 if three else 0.8) * size)
        places = ((0.5, 0.49), (0.25, 0.99), (0.75, 0.99)) if three else ((0.25, 0.8), (0.75, 0.8))
        for nth, (x, bottom) in enumerate(places):
            self._lay(canvas, picture, x * size - picture.width / 2, bottom * size - picture.height, min(nth, 1), index)
        caption = f"{'three' if three else 'two'} {_plural(name)}"
        return _shown(canvas), caption, (self.records[index].file_name, str(len(places)))

    def _emblem(self, generator):
        index = self._one_of(generator, list(self.squares))
        signs = [self.by_code[code] for code in (_HEART, _STAR) if code in self.by_code]
        sign = self._one_of(generator, signs if signs and generator.random() < 0.4 else self.things)
        image, name = self._coloured(generator, index, 0.15)
        left, top, side = self.squares[index]
        canvas = self._canvas()
        canvas.paste(Image.fromarray(image, "RGBA").convert("RGBa"))
        self.placed.append(Placement(0, 1.0, 1.0, 0.0, 0.0))
        picture = _scaled(self._cut(sign), 0.72 * side, 0.72 * side)
        self._lay(canvas, picture, left + (side - picture.width) / 2, top + (side - picture.height) / 2, 1, sign)
        said = self.said(sign, generator) or "heart"
        return _shown(canvas), f"{name} with a {said} on it", (self.records[index].file_name, self.records[sign].file_name)

    def _change(self, generator):
        index = self._one_of(generator, self.things)
        image, name = self._coloured(generator, index, 0.1)
        code = self._one_of(generator, [c for c in (_FIRE, _WING) if c in self.by_code])
        added = self.by_code[code]
        size, canvas, extra = self.size, self._canvas(), self._cut(added)
        if code == _FIRE:
            flames = extra.resize((round(0.98 * size), round(0.98 * size)), Image.Resampling.LANCZOS)
            self._lay(canvas, flames, 0.01 * size, 0.0, 1, added)
            picture = _scaled(_cropped(image), 0.62 * size, 0.56 * size)
            self._lay(canvas, picture, (size - picture.width) / 2, 0.98 * size - picture.height, 0, index)
            caption = self._one_of(generator, (f"{name} on fire", f"burning {name}", f"{name} in flames"))
        else:
            wing = _scaled(extra, 0.46 * size, 0.6 * size)
            mirrored = wing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            # The artwork's wing points to one side: the other is its mirror image.
            pair = (mirrored, wing) if _leans_left(extra) else (wing, mirrored)
            self._lay(canvas, pair[1], 0.0, 0.16 * size, 1, added, pair[1] is mirrored)
            self._lay(canvas, pair[0], size - wing.width, 0.16 * size, 1, added, pair[0] is mirrored)
            picture = _scaled(_cropped(image), 0.56 * size, 0.76 * size)
            self._lay(canvas, picture, (size - picture.width) / 2, 0.92 * size - picture.height, 0, index)
            caption = self._one_of(generator, (f"{name} with wings", f"winged {name}", f"flying {name}"))
        return _shown(canvas), caption, (self.records[index].file_name, code)

    def _canvas(self) -> Image.Image:
        return Image.new("RGBa", (self.size, self.size))

    def _lay(self, canvas: Image.Image, picture: Image.Image, x: float, y: float, part: int, index: int,
             mirrored: bool = False) -> None:
        """Lays the visible part of a picture, scaled, over the canvas, and notes where the whole of it lies."""
        _over(canvas, picture, x, y)
        left, top, right, bottom = _visible(self.images[index])
        across, down = picture.width / (right - left), picture.height / (bottom - top)
        unit = 2 / self.size
        shift_y = down - 1 + unit * (y - down * top)
        if mirrored:
            self.placed.append(Placement(part, -across, down, unit * (x + picture.width + across * left) - across - 1, shift_y))
        else:
            self.placed.append(Placement(part, across, down, across - 1 + unit * (x - across * left), shift_y))

    def _cut(self, index: int) -> Image.Image:
        return _cropped(self.images[index])


def _shown(canvas: Image.Image) -> np.ndarray:
    return np.array(canvas.convert("RGBA"))


def _leans_left(picture: Image.Image) -> bool:
    """Whether the upper half of a picture has more to the left than the lower half has."""
    alpha = np.asarray(picture, np.float32)[..., 3]
    half, x = len(alpha) // 2, np.arange(alpha.shape[1])
    upper, lower = ((part.sum(0) * x).sum() / max(1.0, part.sum()) for part in (alpha[:half], alpha[half:]))
    return bool(upper < lower)


def _face_of(record: Record, size: int) -> dict:
    """Eyes and top of a face's head, and the head's width, in pixels."""
    face = anchors()[record.extra["codepoints"]]
    points = {k: np.array(face[k]) * (size / 64) for k in ("left_eye", "right_eye", "head_top")}
    return points | {"width": (face["head"][2] - face["head"][0]) * size / 64}


def _face_in(square: tuple[int, int, int], image: np.ndarray) -> dict:
    """The same for a thing whose face is the square."""
    left, top, side = square
    x = left + side / 2
    column = image[:, round(x) - 2 : round(x) + 3, 3].max(1) > 128
    return {"left_eye": np.array((x - 0.24 * side, top + 0.36 * side)),
            "right_eye": np.array((x + 0.24 * side, top + 0.36 * side)),
            "head_top": np.array((x, float(column.argmax()))), "width": 1.25 * side}


def _is_animal(record: Record) -> bool:
    return (record.extra.get("subgroup") or "").startswith(("animal", "monkey", "cat-face"))


def _name(record: Record) -> str:
    """The name in lower case, without colours, without what stands after a colon, an animal without its "face"."""
    words = re.sub(r"[^\w\s'-]", " ", record.text.split(":")[0]).lower()
    if _is_animal(record):
        words = re.sub(r"\bface\b", " ", words)
    return " ".join(_COLOUR_WORD.sub(" ", words).split())


def _plural(name: str) -> str:
    if name.endswith(("s", "x", "ch", "sh")):
        return name if name.endswith("s") else f"{name}es"
    return f"{name[:-1]}ies" if re.search(r"[^aeiou]y$", name) else f"{name}s"
