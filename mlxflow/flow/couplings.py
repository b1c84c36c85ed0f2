"""Couplings: which noise goes with which image of a batch.

`independent` leaves them as drawn. `ot` permutes the noise to the assignment of least total squared distance
(Tong et al. 2024, "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport",
section 3.2), exactly: paths then cross less, and few steps suffice. It is for unconditional data only: with a
condition the assignment ties the noise to the class, and sampling, which draws noise without knowing the
class, starts from the wrong distribution.
"""

import numpy as np

from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx

NAMES = ("independent", "ot")


def assignment(x0: mx.array, x1: mx.array) -> np.ndarray:
    """For each x1 [B, ...] the index [B] of its x0 [B, ...] in the matching of least squared distance."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MlxflowError("The 'ot' coupling needs scipy: pip install 'mlxflow[ot]'.") from None
    noise, data = (
        np.asarray(x.astype(mx.float32)).reshape(x.shape[0], -1).astype(np.float64) for x in (x0, x1)
    )
    # |x1|^2 and |x0|^2 add the same to every matching: the inner product alone decides.
    return linear_sum_assignment(-data @ noise.T)[1]


def couple(name: str, x0: mx.array, x1: mx.array, condition=None) -> tuple[mx.array, mx.array]:
    """Noise and data in pairs: (x0, x1), each [B, ...]. Only x0 is reordered, so x1 keeps what belongs to it.

    Raises MlxflowError for `ot` with any condition, for an unknown name, or without scipy.
    """
    if name not in NAMES:
        raise MlxflowError(f"There is no coupling '{name}': choose one of {', '.join(NAMES)}.")
    if name == "independent":
        return x0, x1
    if condition is not None:
        raise MlxflowError(
            "The 'ot' coupling is for unconditional data: with a condition it skews the noise "
            "that each condition sees; use 'independent'."
        )
    if x0.shape != x1.shape:
        raise MlxflowError(
            f"Noise {tuple(x0.shape)} and data {tuple(x1.shape)} must have one shape to be paired."
        )
    return x0[mx.array(assignment(x0, x1))], x1
