"""Training times in (0, 1): which parts of the path a batch sees.

Every distribution is a quantile function of u in (0, 1), so that stratifying u stratifies the time: with one
shared offset, u_i = (u0 + i / N) mod 1 spreads a batch evenly and cuts the variance of the loss at no cost
(Kingma et al. 2021, "Variational Diffusion Models", low-discrepancy sampler). N counts the batches of all
ranks: with one key they share the strata, and together draw what one rank with the whole batch would.
"""

import math

from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx

# Keeps u and t off the ends, where quantiles are infinite; 16 steps of float32 below 1.
_EDGE = 1e-6


def strata(key: mx.array, batch: int, *, stratified: bool = True, rank: int = 0, size: int = 1) -> mx.array:
    """This rank's `batch` values u in (0, 1), float32 [batch]; plain independent draws if not
    `stratified`."""
    if batch < 1 or size < 1 or not 0 <= rank < size:
        raise MlxflowError(f"Cannot draw times for batch {batch}, rank {rank} of {size}.")
    total = batch * size
    if stratified:
        u0 = mx.random.uniform(shape=(1,), key=key)
        i = mx.arange(rank * batch, (rank + 1) * batch, dtype=mx.float32)
        u = u0 + i / total
        u = u - mx.floor(u)
    else:
        u = mx.random.uniform(shape=(total,), key=key)[rank * batch : (rank + 1) * batch]
    return mx.clip(u, _EDGE, 1 - _EDGE)


def uniform(key: mx.array, batch: int, **split) -> mx.array:
    """t ~ U(0, 1), [batch]. `split`: stratified, rank, size, as in `strata`."""
    return strata(key, batch, **split)


def logit_normal(key: mx.array, batch: int, mean: float = 0.0, std: float = 1.0, **split) -> mx.array:
    """t = sigmoid(mean + std z), z ~ N(0, 1), [batch] (Esser et al. 2024, "Scaling Rectified Flow", eq. 19).

    With t = 1 the data, a positive `mean` moves times towards the data.
    """
    z = math.sqrt(2) * mx.erfinv(2 * strata(key, batch, **split) - 1)
    return mx.clip(mx.sigmoid(mean + std * z), _EDGE, 1 - _EDGE)


def skewed(key: mx.array, batch: int, mean: float = -1.2, std: float = 1.2, **split) -> mx.array:
    """EDM's noise levels, ln sigma ~ N(mean, std^2), at the CondOT time of the same noise-to-data ratio.

    sigma = (1 - t) / t gives t = 1 / (1 + sigma) (Karras et al. 2022, EDM, table 1). It is
    `logit_normal` with the mean's sign turned; the defaults are the paper's.
    """
    return logit_normal(key, batch, -mean, std, **split)


TIMES = {"uniform": uniform, "logit_normal": logit_normal, "skewed": skewed}


def draw(name: str, key: mx.array, batch: int, **settings) -> mx.array:
    """Times of the distribution called `name`, with its own settings and `strata`'s."""
    if name not in TIMES:
        raise MlxflowError(f"There is no time distribution '{name}': choose one of {', '.join(TIMES)}.")
    return TIMES[name](key, batch, **settings)
