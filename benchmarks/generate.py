"""What a picture costs from the shell: seconds and memory of `mlxflow generate`, start-up included.

    python benchmarks/generate.py [--rounds 5] [--weights emoji]

Each round starts a new process, as a user does; the median of the rounds is printed with the extremes. `--help` is
timed beside it, since what it takes is paid by every command.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Wall seconds and the largest resident memory in MB of one `mlxflow` command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mlxflow", *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"mlxflow {' '.join(arguments)} failed")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return time.perf_counter() - started, usage.ru_maxrss / unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", default="emoji")
    options = parser.parse_args()
    words = ["generate", "smiling cat", "--seed", "7", "--force", "--weights", options.weights]
    commands = {"mlxflow --help": ["--help"], "one picture, 16 steps": words, "one picture, 4 steps": [*words, "--steps", "4"],
                "eight pictures, 16 steps": [*words, "-n", "8"]}
    print(f"{'':28}{'median':>9}{'best':>9}{'worst':>9}{'memory':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in commands.items():
            runs = [measure(arguments, Path(folder)) for _ in range(options.rounds)]
            seconds = [s for s, _ in runs]
            print(f"{name:28}{statistics.median(seconds):7.2f} s{min(seconds):7.2f} s{max(seconds):7.2f} s"
                  f"{max(m for _, m in runs):7.0f} MB")


if __name__ == "__main__":
    main()
