"""Compositions of the artwork, made on the fly: they teach that words combine.

    recolour    a thing of one dominant hue in another colour            "blue apple"
    dress       a face with something on: glasses, a hat, heart eyes     "cat with a crown"
    pair        two things side by side, or one on the other             "pizza and beer", "cat on a rocket"

A composition belongs to one of eight parts by a hash of what it combines; the last part is kept unseen, so that
combinations of known things can be asked for that no training picture shows. Everything random comes from the
generator that the caller seeds. Pictures are uint8 `[S, S, 4]`, straight alpha.
"""

import hashlib
import json
import re
from functools import cache

import numpy as np
from PIL import Image

from mlxflow.data.folder import Record
from mlxflow.paths import assets_dir

# Hue in degrees, and factors of saturation and value; a hue of None keeps the picture's own.
COLOURS = {
    "red": (0, 1.0, 1.0), "orange": (28, 1.0, 1.0), "yellow": (48, 1.0, 1.1), "green": (125, 0.9, 0.85),
    "teal": (178, 0.9, 0.85), "blue": (212, 1.0, 0.95), "purple": (272, 0.8, 0.9), "pink": (338, 0.55, 1.1),
    "brown": (24, 0.75, 0.55), "black": (None, 0.1, 0.28), "white": (None, 0.06, 1.4), "gray": (None, 0.06, 0.72),
}
_COLOUR_WORD = re.compile(rf"\b({'|'.join(COLOURS)}|grey|golden?|silver|beige|rainbow|dark|light|blond|skin|hair)\b")
_PLAIN_GROUPS = ("Animals & Nature", "Food & Drink", "Objects", "Travel & Places", "Activities", "Smileys & Emotion")
_THINGS = _PLAIN_GROUPS[:5]
_NEAR, _STRONG, _LEAST = 34, 0.28, 0.5

# code points: wordings, where it goes. Eyes: a pair of glasses; top: stands on the head; each: one on every eye.
WEARABLE = {
    "1F576": (("wearing sunglasses", "with sunglasses", "in dark glasses"), "eyes"),
    "1F453": (("wearing glasses", "with glasses", "with eyeglasses"), "eyes"),
    "1F3A9": (("wearing a top hat", "with a top hat", "in a black top hat"), "top"),
    "1F451": (("wearing a crown", "with a crown", "with a golden crown on"), "top"),
    "1F393": (("wearing a graduation cap", "with a graduation cap"), "top"),
    "1F452": (("wearing a straw hat", "with a sun hat", "in a straw hat with a bow"), "top"),
    "1F9E2": (("wearing a baseball cap", "with a blue cap", "in a cap"), "top"),
    "1F380": (("with a pink bow", "wearing a bow", "with a ribbon on the head"), "top"),
    "1F33B": (("with a sunflower on the head", "with a flower on top"), "top"),
    "2764": (("with heart eyes", "with hearts for eyes", "in love with heart eyes"), "each"),
    "2B50": (("with star eyes", "with stars for eyes", "starstruck"), "each"),
}


@cache
def anchors() -> dict[str, dict]:
    """Faces by code points: eyes, head and head_top in pixels of the 64x64 Noto tile; only faces seen from the front."""
    with open(assets_dir() / "face_anchors.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["codepoints"]: row for row in rows if row["clean"] and row.get("left_eye") and row.get("right_eye")}


def unseen(*parts: str) -> bool:
    """Whether this combination is kept out of training (one in eight, by hash)."""
    return hashlib.sha256("+".join(parts).encode()).digest()[0] % 8 == 0


def dominant_hue(image: np.ndarray) -> float | None:
    """The hue, in degrees, that at least half of the opaque pixels are near; None if there is no such hue."""
    opaque = image[..., 3] > 128
    hue, saturation, value = _hsv(image)
    strong = opaque & (saturation > _STRONG) & (value > 0.2)
    if not strong.any():
        return None
    counts = np.bincount((hue[strong] // 10).astype(int), minlength=36)
    smooth = counts + np.roll(counts, 1) + np.roll(counts, -1)
    centre = 10 * int(smooth.argmax()) + 5
    near = strong & (_distance(hue, centre) < _NEAR)
    return float(centre) if near.sum() >= _LEAST * opaque.sum() else None


def recolour(image: np.ndarray, hue: float, colour: str) -> np.ndarray:
    """The pixels near `hue` in `colour` (one of COLOURS); shading, outline and other colours stay."""
    target, saturate, brighten = COLOURS[colour]
    h, s, v = _hsv(image)
    near = (_distance(h, hue) < _NEAR) & (s > 0.12)
    if target is not None:
        offset = (h - hue + 180) % 360 - 180
        h = np.where(near, (target + 0.3 * offset) % 360, h)
    s = np.where(near, np.clip(s * saturate, 0, 1), s)
    lit = np.clip(0.55 + 0.45 * v, 0, 1) if colour == "white" else np.clip(v * brighten, 0, 1)
    v = np.where(near, lit, v)
    hsv = np.stack([h * (255 / 360), s * 255, v * 255], axis=-1).round().astype(np.uint8)
    out = image.copy()
    out[..., :3] = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return out


def _hsv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hsv = np.asarray(Image.fromarray(np.ascontiguousarray(image[..., :3]), "RGB").convert("HSV"), np.float32)
    return hsv[..., 0] * (360 / 255), hsv[..., 1] / 255, hsv[..., 2] / 255


def _distance(hue: np.ndarray, centre: float) -> np.ndarray:
    return np.abs((hue - centre + 180) % 360 - 180)


def _cropped(image: np.ndarray) -> Image.Image:
    """The visible part, premultiplied."""
    picture = Image.fromarray(image, "RGBA")
    return picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 20)).getbbox()).convert("RGBa")


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

    Pictures that are not of the embedded kind (no code points, no group) give recolourings only.
    """

    def __init__(self, records: list[Record], images: np.ndarray):
        self.records, self.images = records, images
        self.by_code = {r.extra.get("codepoints"): i for i, r in enumerate(records) if r.extra.get("codepoints")}
        plain = [i for i, r in enumerate(records) if r.extra.get("group", "Objects") in _PLAIN_GROUPS]
        hues = {i: dominant_hue(images[i]) for i in plain if not _COLOUR_WORD.search(records[i].text)}
        self.hues = {i: hue for i, hue in hues.items() if hue is not None}
        self.faces = [i for code, i in self.by_code.items() if code in anchors() and records[i].style == "noto"]
        self.wearable = [code for code in WEARABLE if code in self.by_code]
        self.things = [i for i in plain if records[i].extra.get("group") in _THINGS and len(_short(records[i])) <= 2]
        self.kinds = [kind for kind, fit in (("recolour", self.hues), ("dress", self.faces and self.wearable),
                                             ("pair", len(self.things) > 1)) if fit]

    def draw(self, generator: np.random.Generator, *, kept: bool = True) -> tuple[np.ndarray, str]:
        """A picture and its caption, from the combinations that training may see (or, kept=False, the unseen ones).

        Raises ValueError when nothing here can be combined.
        """
        if not self.kinds:
            raise ValueError("nothing here can be combined")
        while True:
            kind = self.kinds[generator.integers(len(self.kinds))]
            picture, caption, parts = getattr(self, f"_{kind}")(generator)
            if unseen(kind, *parts) != kept:
                return picture, caption

    def _recolour(self, generator):
        index = list(self.hues)[generator.integers(len(self.hues))]
        hue = self.hues[index]
        others = [c for c, (h, _, _) in COLOURS.items() if h is None or abs((h - hue + 180) % 360 - 180) > 40]
        colour = others[generator.integers(len(others))]
        words = " ".join(_short(self.records[index]))
        caption = f"{words} in {colour}" if generator.random() < 0.2 else f"{colour} {words}"
        return recolour(self.images[index], hue, colour), caption, (self.records[index].file_name, colour)

    def _dress(self, generator):
        index = self.faces[generator.integers(len(self.faces))]
        code = self.wearable[generator.integers(len(self.wearable))]
        wordings, place = WEARABLE[code]
        record, face = self.records[index], anchors()[self.records[index].extra["codepoints"]]
        size = self.images.shape[1]
        scale, left, top = (0.8, 0.1 * size, 0.2 * size) if place == "top" else (1.0, 0.0, 0.0)
        canvas = Image.new("RGBa", (size, size))
        whole = Image.fromarray(self.images[index], "RGBA").convert("RGBa")
        canvas.paste(whole.resize((round(size * scale),) * 2, Image.Resampling.LANCZOS), (round(left), round(top)))
        point = {k: np.array(face[k]) * (size / 64 * scale) + (left, top) for k in ("left_eye", "right_eye", "head_top")}
        between = float(np.hypot(*(point["right_eye"] - point["left_eye"])))
        thing = _cropped(self.images[self.by_code[code]])
        if place == "eyes":
            thing = _scaled(thing, 2.15 * between)
            x, y = (point["left_eye"] + point["right_eye"]) / 2
            _over(canvas, thing, x - thing.width / 2, y - thing.height / 2)
        elif place == "each":
            thing = _scaled(thing, 0.85 * between)
            for eye in ("left_eye", "right_eye"):
                _over(canvas, thing, point[eye][0] - thing.width / 2, point[eye][1] - thing.height / 2)
        else:
            head = (face["head"][2] - face["head"][0]) * size / 64 * scale
            thing = _scaled(thing, 0.62 * head, 0.44 * size)
            _over(canvas, thing, point["head_top"][0] - thing.width / 2, point["head_top"][1] + 0.09 * head - thing.height)
        words = " ".join(_short(record))
        return np.array(canvas.convert("RGBA")), f"{words} {wordings[generator.integers(len(wordings))]}", (
            record.file_name, code)

    def _pair(self, generator):
        one, two = (self.things[i] for i in generator.choice(len(self.things), 2, replace=False))
        a, b = (" ".join(_short(self.records[i])) for i in (one, two))
        size = self.images.shape[1]
        canvas = Image.new("RGBa", (size, size))
        first, second = _cropped(self.images[one]), _cropped(self.images[two])
        if generator.random() < 0.5:
            first, second = (_scaled(p, 0.5 * size, 0.72 * size) for p in (first, second))
            for picture, x in ((first, 0.25 * size), (second, 0.75 * size)):
                _over(canvas, picture, x - picture.width / 2, 0.82 * size - picture.height)
            caption = f"{a} {('and', 'with', 'next to')[generator.integers(3)]} {b}"
        else:
            first, second = _scaled(first, 0.62 * size, 0.5 * size), _scaled(second, 0.8 * size, 0.56 * size)
            bottom = size - second.height
            _over(canvas, second, (size - second.width) / 2, bottom)
            _over(canvas, first, (size - first.width) / 2, bottom + 0.06 * size - first.height)
            caption = f"{a} on {('', 'a ', 'top of ')[generator.integers(3)]}{b}"
        return np.array(canvas.convert("RGBA")), caption, (self.records[one].file_name, self.records[two].file_name)


def _short(record: Record) -> list[str]:
    """The name's words in lower case, without what stands after a colon."""
    return re.sub(r"[^\w\s'-]", " ", record.text.split(":")[0]).lower().split()
