"""Muon in float32, and one training step: clipping, the optimizers, the running average of the weights.

torch.optim.Muon orthogonalises in bfloat16, which is no reference for float32, and takes matrices only.
"""

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """w <- (1 - lr decay) w - lr 0.2 sqrt(max(rows, columns)) O, O the Nesterov momentum with its singular
    values near 1.

    Jordan et al. 2024; the factor is Liu et al. 2025's. A kernel is a matrix of its outputs by everything
    else.
    """

    def __init__(self, parameters, lr: float, weight_decay: float, momentum: float = 0.95,
                 iterations: int = 5):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum,
                                      "iterations": iterations})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                matrix = p.grad.lerp(buffer, group["momentum"]).flatten(1)
                update = orthogonal(matrix, group["iterations"]) * 0.2 * max(matrix.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view_as(p), alpha=group["lr"])


def orthogonal(matrix: Tensor, iterations: int) -> Tensor:
    """Newton-Schulz: X <- a X + b (X X^T) X + c (X X^T)^2 X from X = matrix / its Frobenius norm."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return x.T if tall else x


class Training:
    """A twin in training: AdamW moves what `muon` does not name; vectors are not decayed; `average` is the
    EMA.
    """

    def __init__(self, twin: nn.Module, muon: set[str], lr: float, weight_decay: float, clip: float,
                 decay: float):
        self.parameters = dict(twin.named_parameters())
        self.clip, self.decay, self.count = clip, decay, 0
        groups = {}
        for name, p in self.parameters.items():
            groups.setdefault((name in muon, p.ndim >= 2), []).append(p)
        made = lambda kind: [{"params": ps, "weight_decay": weight_decay if wide else 0.0}
                             for (by_muon, wide), ps in groups.items() if by_muon == kind]
        self.optimizers = [torch.optim.AdamW(made(False), lr=lr, betas=(0.9, 0.99), eps=1e-8)]
        if muon:
            self.optimizers.append(Muon(made(True), lr=lr, weight_decay=weight_decay))
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    def step(self) -> Tensor:
        """One update by the gradients that the parameters have; returns their norm before clipping.

        A parameter that the loss did not reach has no gradient in torch, which would leave it out: it is
        decayed here. The average's decay warms up: min(decay, (1 + n) / (10 + n)) at update n = 0, 1, ...
        """
        for p in self.parameters.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, p in self.parameters.items():
            self.average[name].mul_(decay).add_(p.detach(), alpha=1 - decay)
        self.count += 1
        return norm
