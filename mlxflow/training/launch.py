"""Several ranks of one command on this machine: `mlxflow train --ranks 2`.

`mlx.launch -n 2` works as well, and over several machines; but its reader threads spin (stdin is always writable)
and take a whole core from the ranks, which on two cores is half of everything.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from mlxflow.errors import MlxflowError


def under_launcher() -> bool:
    """Whether this process is already one rank of several."""
    return "MLX_RANK" in os.environ


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def run_ranks(count: int, arguments: list[str]) -> int:
    """Start `mlxflow ARGUMENTS` as `count` ranks (ring over loopback) and wait; the first failure ends all.

    SIGINT and SIGTERM go to every rank, each of which finishes its step. Returns the exit code: 0 when all ended
    well, else the first one that did not.
    """
    if count < 1:
        raise MlxflowError(f"--ranks must be 1 or more, not {count}.")
    with tempfile.TemporaryDirectory(prefix="mlxflow-ring-") as folder:
        hosts = Path(folder) / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
        ranks = []
        for rank in range(count):
            environment = os.environ | {"MLX_RANK": str(rank), "MLX_WORLD_SIZE": str(count), "MLX_HOSTFILE": str(hosts)}
            # A session of its own, so that a Ctrl-C on the terminal reaches the ranks once, through us.
            ranks.append(subprocess.Popen([sys.executable, "-m", "mlxflow", *arguments], env=environment,
                                          start_new_session=True))

        def forward(number, frame):
            for process in ranks:
                if process.poll() is None:
                    process.send_signal(number)

        before = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            return wait(ranks)
        finally:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)


def wait(ranks: list[subprocess.Popen]) -> int:
    """Until all have ended; once one fails, the others get a moment and are then ended."""
    while True:
        for process in ranks:
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
        codes = [process.poll() for process in ranks]
        failed = [code for code in codes if code not in (0, None)]
        if failed:
            for process in ranks:
                if process.poll() is None:
                    try:
                        process.wait(timeout=5)
                    except subprocess.TimeoutExpired:
                        process.kill()
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if None not in codes:
            return 0
