"""What is compared: an array of ours against the twin's, and how far they may be apart.

    error <= absolute + relative * (largest magnitude of the twin's array)

Single numbers near zero carry the rounding of their large neighbours, so errors are relative to an array's
largest number, not to each number's own.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    absolute: float
    relative: float


# Outputs of modules and losses, of small networks with random weights.
FORWARD = Tolerance(1e-6, 2e-5)
# The same of trained weights, which saturate activations: the CPU's forms of exp have their largest errors
# there.
TRAINED = Tolerance(1e-6, 1e-4)
# Sums over places and batch of products of two such errors.
GRADIENT = Tolerance(1e-7, 1e-4)
# How far the weights moved, as a whole parameter, by the same gradients ...
UPDATE = Tolerance(1e-7, 1e-3)
# ... and by gradients of their own, whose rounding optimizers enlarge: early steps of Adam divide each number
# by its own size, Muon lifts the smallest singular values to the size of the others.
MOVED, MOVED_BY_MUON = Tolerance(1e-7, 1e-2), Tolerance(1e-7, 0.3)
# The states on the way to the picture, whose range is 2.
STATE = Tolerance(1e-3, 0.0)


@dataclass(frozen=True)
class Row:
    """max |ours - theirs|, the same over `scale`, the largest |theirs|, and whether that is within tolerance.
    """

    stage: str
    absolute: float
    relative: float
    scale: float
    tolerance: Tolerance

    @property
    def ok(self) -> bool:
        return self.absolute <= self.tolerance.absolute + self.tolerance.relative * self.scale

    @property
    def severity(self) -> float:
        """The share of the tolerance that is used: above 1 fails."""
        allowed = self.tolerance.absolute + self.tolerance.relative * self.scale
        return self.absolute / allowed if math.isfinite(self.absolute) else math.inf

    def to_dict(self) -> dict:
        finite = lambda value: value if math.isfinite(value) else None
        return {"stage": self.stage, "max_abs": finite(self.absolute), "max_rel": finite(self.relative),
                "scale": finite(self.scale), "tolerance": self.tolerance._asdict(), "ok": self.ok}


def row(stage: str, ours: np.ndarray, theirs: np.ndarray, tolerance: Tolerance) -> Row:
    """Compares two arrays of one layout; axes of length 1 do not count. Another shape or a NaN is an infinite
    error.
    """
    ours, theirs = (np.squeeze(np.asarray(a, np.float64)) for a in (ours, theirs))
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Row(stage, math.inf, math.inf, math.nan, tolerance)
    absolute, scale = float(np.abs(ours - theirs).max(initial=0)), float(np.abs(theirs).max(initial=0))
    return Row(stage, absolute, share(absolute, scale), scale, tolerance)


def moved(stage: str, ours: np.ndarray, theirs: np.ndarray, start: np.ndarray, tolerance: Tolerance) -> Row:
    """Compares how a parameter moved from `start`, by root mean squares instead of the largest number."""
    ours, theirs = (np.asarray(a, np.float64) - start for a in (ours, theirs))
    size = lambda a: float(np.sqrt(np.square(a).mean()))
    absolute, scale = size(ours - theirs), size(theirs)
    return Row(stage, absolute, share(absolute, scale), scale, tolerance)


def share(error: float, scale: float) -> float:
    """error / scale; infinite for an error where there should be nothing but zeros."""
    return error / scale if scale else (math.inf if error else 0.0)


def worst(rows: list[Row]) -> Row:
    return max(rows, key=lambda r: r.severity)


def first_failure(rows: list[Row]) -> Row | None:
    """The first row, in the order of computation, that is out of tolerance."""
    return next((r for r in rows if not r.ok), None)
