"""A picture that the tests of compositions share."""

import numpy as np


def disc(rgb, size=64, radius=24):
    """A disc with a dark outline on transparent ground: uint8 `[S, S, 4]`."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    far = np.hypot(x, y)
    image = np.zeros((size, size, 4), np.uint8)
    image[far < radius] = (*rgb, 255)
    image[(far >= radius) & (far < radius + 2)] = (40, 40, 40, 255)
    return image
