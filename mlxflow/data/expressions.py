"""The eyes and mouth of the yellow faces, cut out, so that other things can smile, cry or be angry.

The faces share one disc. What it looks like without features is, pixel by pixel, about the brightest that it is on any of
them; where a face differs from that, there is a feature. Pictures are uint8 `[S, S, 4]`, straight alpha.
"""

import numpy as np
from PIL import Image

# Words for a feeling, as "a smiling cloud" and "a cloud that is smiling" say it: code points of faces that have it.
EXPRESSIONS = {
    "smiling": ("1F642", "1F60A", "1F604"), "happy": ("1F600", "1F604", "1F642"), "laughing": ("1F606", "1F604", "1F602"),
    "crying": ("1F622", "1F62D"), "sad": ("1F641", "2639", "1F61E", "1F622"), "angry": ("1F620",),
    "winking": ("1F609",), "surprised": ("1F62E", "1F632"), "sleeping": ("1F634",), "grinning": ("1F600", "1F604"),
}
# "with a smiley face": no feeling is named.
PLAIN_FACES = ("1F642", "1F60A", "1F600")
# Brightness differences between which a pixel becomes a feature, of 255.
_NONE, _FULL = 30.0, 70.0
# Features are darker than the disc, and at most places most faces have none.
_DISC_PERCENTILE = 85


def bare_disc(faces: np.ndarray) -> np.ndarray:
    """The disc that uint8 `[N, S, S, 4]` faces share, without their features: float32 `[S, S, 3]`."""
    return np.percentile(faces[..., :3].astype(np.float32), _DISC_PERCENTILE, axis=0)


def features(face: np.ndarray, disc: np.ndarray) -> np.ndarray:
    """A face's eyes and mouth on transparent ground, cut to what is there: uint8 `[h, w, 4]`, empty if it has none."""
    size = face.shape[0]
    far = np.abs(face[..., :3].astype(np.float32) - disc).max(-1)
    alpha = np.clip((far - _NONE) / (_FULL - _NONE), 0, 1) * (face[..., 3] / 255)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    alpha[np.hypot(x, y) > 0.43 * size] = 0  # the disc's own outline
    rows, columns = np.nonzero(alpha.max(1) > 0.5)[0], np.nonzero(alpha.max(0) > 0.5)[0]
    if not len(rows):
        return face[:0, :0]
    out = face.copy()
    out[..., 3] = (255 * alpha).round()
    return out[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def inner_square(alpha: np.ndarray) -> tuple[int, int, int]:
    """The largest wholly opaque square of an alpha channel `[S, S]`: its left, top and side in pixels (side 0: none).

    Of several as large, the one nearest to the middle of what is opaque.
    """
    solid = alpha > 200
    if not solid.any():
        return 0, 0, 0
    sums = np.pad(solid.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    middle = np.argwhere(solid).mean(0)
    for side in range(alpha.shape[0], 0, -1):
        full = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side] == side * side
        if full.any():
            corners = np.argwhere(full)
            top, left = corners[np.hypot(*(corners + side / 2 - middle).T).argmin()]
            return int(left), int(top), side
    return 0, 0, 0


def with_features(image: np.ndarray, cut: np.ndarray, square: tuple[int, int, int]) -> np.ndarray:
    """The picture with cut-out features drawn into a square of it, as large as fits."""
    left, top, side = square
    picture = Image.fromarray(cut, "RGBA").convert("RGBa")
    factor = 0.94 * side / max(picture.size)
    picture = picture.resize([max(1, round(n * factor)) for n in picture.size], Image.Resampling.LANCZOS)
    x, y = round(left + (side - picture.width) / 2), round(top + (side - picture.height) / 2)
    below = image[y:y + picture.height, x:x + picture.width]
    above = np.asarray(picture, np.float32)
    cover = above[..., 3:] / 255
    out = image.copy()
    mixed = np.clip(above[..., :3] + below[..., :3] * (1 - cover), 0, 255)
    out[y:y + picture.height, x:x + picture.width, :3] = mixed.round()
    return out
