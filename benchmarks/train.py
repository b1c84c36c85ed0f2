"""Images a second of training the emoji model: one rank, two ranks, and the same step in PyTorch.

    python benchmarks/train.py [--batch 32] [--rounds 3]

Each row is `mlxflow train` itself (data, draws, gradients, clipping, AdamW, average of the weights) on pictures of
noise, one BLAS thread a rank; two ranks share the batch, or have a batch of that size each. The PyTorch rows are the twin
of the network (tests/parity/twins) with AdamW (fused), clipping and the average in one process, with one and with two
threads. The rows take turns, and the best round of each counts: other work on the machine can only slow a round down.
Without torch its rows are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from mlxflow.networks import build, describe

ROOT = Path(__file__).resolve().parents[1]
PICTURES, WARM, STEPS = 64, 4, 16
MODEL = {"kind": "text-unet", "text": {"sketch": 1900, "collage": True}, "unet": {"sketch": True}}


def mlx_round(ranks: int, batch: int, data: Path, run: Path) -> float:
    """Images a second of `mlxflow train` after a few steps that compile."""
    recipe = run.with_suffix(".toml")
    recipe.write_text(f"batch = {batch}\nlog_every = {WARM}\nsample_every = 100000\nvalidate_every = 100000\n"
                      "checkpoint_every = 100000\nprompts = ['face']\n[model]\nkind = 'text-unet'\n"
                      "[model.text]\nsketch = 1900\ncollage = true\n[model.unet]\nsketch = true\n")
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "mlxflow", "train", "--data", str(data), "--config", str(recipe), "--run",
                    str(run), "--steps", str(WARM + STEPS), "--ranks", str(ranks), "--force", "--device", "cpu"],
                   check=True, env=environment, capture_output=True)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return max(line["images_per_second"] for line in lines[1:] if "images_per_second" in line)


def torch_round(threads: int, batch: int) -> float:
    """Images a second of the twin's step, in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    config = json.dumps(describe(build(MODEL)))
    said = subprocess.run([sys.executable, __file__, "--twin", config, "--threads", str(threads), "--batch", str(batch)],
                          check=True, env=environment, capture_output=True, text=True)
    return float(said.stdout.split()[-1])


def twin(config: dict, threads: int, batch: int) -> None:
    """The step in PyTorch: the same draws and loss, AdamW fused, clipping, average of the weights."""
    import time

    import torch

    from tests.parity.twins import build

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = build(config)
    average = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    words = config["text"]["word_dim"]
    mask = torch.ones(batch, config["text"]["length"], dtype=torch.bool)

    def step():
        x1, x0 = torch.rand(batch, 4, 64, 64), torch.randn(batch, 4, 64, 64)
        t = torch.sigmoid(torch.randn(batch) * 1.2 - 1.5)
        at = t[:, None, None, None]
        keep = torch.rand(batch) >= 0.1
        output = net(at * x1 + (1 - at) * x0, t, torch.randn(batch, mask.shape[1], words), mask & keep[:, None])
        weight = (1 / (1 - t) ** 2).clamp(max=5)
        loss = (weight * (output - x1).square().mean((1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()), 1e-4)
        return loss.item()

    best = 0.0
    for n in range(WARM + STEPS):
        if n % WARM == 0:
            start = time.perf_counter()
        step()
        if n % WARM == WARM - 1 and n >= WARM:
            best = max(best, WARM * batch / (time.perf_counter() - start))
    print(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--twin", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.twin:
        twin(json.loads(options.twin), options.threads, options.batch)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        for i in range(PICTURES):
            pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(data / f"picture_{i}.png")
        rows = {"MLX, one rank": lambda: mlx_round(1, options.batch, data, Path(folder) / "one"),
                "MLX, two ranks": lambda: mlx_round(2, options.batch, data, Path(folder) / "two"),
                "MLX, two ranks, each": lambda: mlx_round(2, 2 * options.batch, data, Path(folder) / "each")}
        if find_spec("torch"):
            rows["PyTorch, one thread"] = lambda: torch_round(1, options.batch)
            rows["PyTorch, two threads"] = lambda: torch_round(2, options.batch)
        else:
            print("torch is not installed: its rows are left out (pip install 'mlxflow[test]').")
        best = dict.fromkeys(rows, 0.0)
        for _ in range(options.rounds):
            for name, measure in rows.items():
                best[name] = max(best[name], measure())
    print(f"batch {options.batch}, best of {options.rounds} rounds, images a second:")
    for name, value in best.items():
        print(f"  {name:22} {value:6.1f}")
    one, two = best["MLX, one rank"], best["MLX, two ranks"]
    each = best["MLX, two ranks, each"]
    print(f"two ranks / one rank: {two / one:.2f} sharing the batch, {each / one:.2f} with a batch of {options.batch} each")
    if "PyTorch, two threads" in best:
        print(f"two ranks / PyTorch with two threads: {two / best['PyTorch, two threads']:.2f}")


if __name__ == "__main__":
    main()
