"""A thing in another colour: its dominant hue is found and moved, shading, outline and other colours stay.

Pictures are uint8 `[S, S, 4]`, straight alpha.
"""

import numpy as np
from PIL import Image

# Hue in degrees, and factors of saturation and value; a hue of None keeps the picture's own.
COLOURS = {
    "red": (0, 1.0, 1.0), "orange": (28, 1.0, 1.0), "yellow": (48, 1.0, 1.1), "green": (125, 0.9, 0.85),
    "teal": (178, 0.9, 0.85), "blue": (212, 1.0, 0.95), "purple": (272, 0.8, 0.9), "pink": (338, 0.55, 1.1),
    "brown": (24, 0.75, 0.55), "black": (None, 0.1, 0.28), "white": (None, 0.06, 1.4), "gray": (None, 0.06, 0.72),
    "golden": (44, 0.9, 1.0), "silver": (None, 0.06, 1.0),
}
RAINBOW = "rainbow"
"""A colour that only `recolour` knows: all hues from left to right."""

# Degrees around the dominant hue; least saturation of what counts as coloured; its least share of the opaque pixels.
_NEAR, _STRONG, _LEAST = 34, 0.28, 0.5
# Saturation that a gray thing is tinted to.
_TINT = 0.62


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


def is_gray(image: np.ndarray) -> bool:
    """Whether at least half of the opaque pixels are gray and neither black nor white."""
    opaque = image[..., 3] > 128
    _, saturation, value = _hsv(image)
    return bool((opaque & (saturation < _STRONG) & (value > 0.25) & (value < 0.95)).sum() >= _LEAST * max(1, opaque.sum()))


def recolour(image: np.ndarray, hue: float | None, colour: str) -> np.ndarray:
    """The pixels near `hue` (None: the gray ones) in `colour`, one of COLOURS or RAINBOW."""
    target, saturate, brighten = COLOURS.get(colour, (0.0, 1.0, 1.0))
    h, s, v = _hsv(image)
    near = s < _STRONG if hue is None else (_distance(h, hue) < _NEAR) & (s > 0.12)
    if colour == RAINBOW:
        target = np.linspace(0, 300, image.shape[1])[None]
    if target is not None:
        offset = 0.0 if hue is None else (h - hue + 180) % 360 - 180
        h = np.where(near, (target + 0.3 * offset) % 360, h)
    if hue is None and target is not None:
        s = np.where(near, _TINT, s)
    s = np.where(near, np.clip(s * saturate, 0, 1), s)
    lit = np.clip(0.55 + 0.45 * v, 0, 1) if colour == "white" else np.clip(v * brighten, 0, 1)
    v = np.where(near, lit, v)
    hsv = np.stack([h * (255 / 360), s * 255, v * 255], axis=-1).round().astype(np.uint8)
    out = image.copy()
    out[..., :3] = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return out


def far_from(hue: float | None) -> list[str]:
    """The colours that a thing of this hue (None: a gray one) does not have yet."""
    own = [c for c, (h, _, _) in COLOURS.items()
           if (hue is not None if h is None else hue is None or _distance(np.array(h), hue) > 40)]
    return [*own, RAINBOW]


def _hsv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hsv = np.asarray(Image.fromarray(np.ascontiguousarray(image[..., :3]), "RGB").convert("HSV"), np.float32)
    return hsv[..., 0] * (360 / 255), hsv[..., 1] / 255, hsv[..., 2] / 255


def _distance(hue: np.ndarray, centre: float) -> np.ndarray:
    return np.abs((hue - centre + 180) % 360 - 180)
