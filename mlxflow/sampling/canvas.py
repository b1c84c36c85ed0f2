"""Any picture as a model sees it, and back: fitted to S x S for editing, and put back so that the rest is
untouched.

A picture of another size or shape is scaled into the middle of the square. What was edited there comes back
at the picture's own size, and only where the mask says so: everywhere else the original's pixels are copied,
bit for bit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mlxflow.data.images import FORMATS, MAX_PIXELS, fit, premultiply, to_rgba, unpremultiply
from mlxflow.errors import MlxflowError
from mlxflow.sampling.resize import area, resized


@dataclass(frozen=True)
class Canvas:
    """original: RGBA `[H, W]`, straight alpha; values: float32 `[S, S, 4]` in [-1, 1], premultiplied, what a
    model sees.
    """

    original: Image.Image
    values: np.ndarray

    @classmethod
    def of(cls, picture: Image.Image, size: int) -> "Canvas":
        """From any kind of picture. Raises MlxflowError for one with an empty side."""
        if not picture.width or not picture.height:
            raise MlxflowError("The picture has no pixels.")
        rgba = to_rgba(picture) if picture.mode != "RGBA" else picture
        return cls(rgba, premultiply(fit(rgba, size)))

    @property
    def size(self) -> int:
        return self.values.shape[0]

    def picture(self, values: np.ndarray, mask: np.ndarray | None = None) -> Image.Image:
        """What became of `values` `[S, S, 4]` as a picture: S x S itself, or with mask (bool `[H, W]`, True
        is new) the original with that part replaced."""
        made = Image.fromarray(unpremultiply(np.clip(values, -1, 1)))
        if mask is None:
            return made
        width, height = self.original.size
        side = max(width, height)
        made = resized(made, side)
        left, top = (side - width) // 2, (side - height) // 2
        made = np.asarray(made.crop((left, top, left + width, top + height)))
        return Image.fromarray(np.where(mask[..., None], made, np.asarray(self.original)))

    def small(self, mask: np.ndarray) -> np.ndarray:
        """A mask bool `[H, W]` on the canvas: bool `[S, S]`, True wherever any of it is."""
        height, width = mask.shape
        side = max(width, height)
        square = np.zeros((side, side), np.float32)
        left, top = (side - width) // 2, (side - height) // 2
        square[top : top + height, left : left + width] = mask
        if side < self.size:
            # A pixel of the canvas lies on one of the picture's, or across the border of two.
            first = np.arange(self.size) * side // self.size
            last = (np.arange(1, self.size + 1) * side - 1) // self.size
            rows = np.maximum(square[first], square[last])
            return np.maximum(rows[:, first], rows[:, last]) > 0
        return area(area(square, self.size).T, self.size).T > 1e-6

    def box(self, text: str) -> np.ndarray:
        """The mask of "left,top,right,bottom" in the picture's pixels: bool `[H, W]`."""
        width, height = self.original.size
        try:
            left, top, right, bottom = (int(part) for part in text.split(","))
        except ValueError:
            raise MlxflowError(
                f"The box must be left,top,right,bottom in pixels, as in 10,8,40,30; not '{text}'."
            ) from None
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise MlxflowError(f"The box {text} is not inside the picture of {width} x {height} pixels.")
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = True
        return mask

    def mask(self, picture: Image.Image) -> np.ndarray:
        """The mask of a picture: what is light and opaque in it is to be drawn anew: bool `[H, W]`."""
        if picture.size != self.original.size:
            raise MlxflowError(
                f"The mask has {picture.width} x {picture.height} pixels and the picture "
                f"{self.original.width} x {self.original.height}: they must be equal."
            )
        pixels = np.asarray(to_rgba(picture))
        mask = (pixels[..., :3].mean(-1) >= 128) & (pixels[..., 3] >= 128)
        if not mask.any():
            raise MlxflowError("The mask is empty: paint white what is to be drawn anew.")
        return mask


def open_picture(path: str | Path) -> Image.Image:
    """A picture file as RGBA, first frame, upright. Raises MlxflowError for a file that is missing, broken or
    huge.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MlxflowError(
                    f"{path}: the picture has more than {MAX_PIXELS // 1_000_000} megapixels; make it "
                    "smaller."
                )
            return to_rgba(image)
    except FileNotFoundError:
        raise MlxflowError(f"{path}: there is no such picture.") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        TypeError,
        KeyError,
        Image.DecompressionBombError,
    ) as error:
        raise MlxflowError(f"{path}: not a picture that can be read ({error}).") from None
