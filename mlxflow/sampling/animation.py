"""Moving pictures: the way from noise to a picture, and other sequences, as the frames of a file.

GIF has no soft edges, and noise has nothing else: a trajectory's frames lie on white there, or on a colour
that was chosen. APNG and WebP keep them transparent.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mlxflow.data.images import unpremultiply
from mlxflow.sampling import output
from mlxflow.sampling.formats import encode_frames
from mlxflow.sampling.resize import resized

STEP, HOLD = 90, 1500  # milliseconds


def trajectory(
    paths: Sequence[Sequence[np.ndarray]],
    columns: int,
    *,
    size: int | None = None,
    background: str | None = None,
) -> list[Image.Image]:
    """Frames of several pictures becoming themselves side by side; one alone fills the frame.

    paths: for each picture its states, float32 `[S, S, 4]`, premultiplied; a shorter one waits at its end.
    size: of each picture, in pixels.
    """
    frames = []
    for i in range(max(map(len, paths))):
        now = [Image.fromarray(unpremultiply(np.clip(path[min(i, len(path) - 1)], -1, 1))) for path in paths]
        now = [resized(picture, size or picture.width) for picture in now]
        frame = now[0] if len(now) == 1 else output.grid(np.stack([np.asarray(p) for p in now]), columns)
        frames.append(output.on_background(frame, background))
    return frames


def trajectory_bytes(
    paths: Sequence[Sequence[np.ndarray]],
    suffix: str,
    columns: int,
    made_by: dict | None = None,
    description: str = "",
    *,
    size: int | None = None,
    background: str | None = None,
) -> bytes:
    """The file of a trajectory: a step every 0.09 s, the result for 1.5 s, for ever. See `trajectory`."""
    ground = background or ("white" if suffix == ".gif" else None)
    frames = trajectory(paths, columns, size=size, background=ground)
    return encode_frames(frames, [STEP] * (len(frames) - 1) + [HOLD], suffix, made_by, description)
