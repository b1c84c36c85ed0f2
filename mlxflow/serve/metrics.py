"""Counters and a histogram in Prometheus' text format, which is short enough to write by hand.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import os
import sys
from collections import Counter

from mlxflow import __version__

# Seconds to the first picture: what the page promises is 0.4.
BUCKETS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)


class Histogram:
    """How many observations were at most so many seconds."""

    def __init__(self):
        self.counts, self.sum, self.total = [0] * len(BUCKETS), 0.0, 0

    def observe(self, seconds: float) -> None:
        self.counts = [count + (seconds <= limit) for count, limit in zip(self.counts, BUCKETS)]
        self.sum += seconds
        self.total += 1


class Metrics:
    """Written from the event loop only."""

    def __init__(self):
        self.requests: Counter[tuple[str, int]] = Counter()
        self.first_picture = Histogram()

    def text(self, worker) -> str:
        """The page at /metrics."""
        lines = []

        def family(name: str, kind: str, explanation: str, values: list[tuple[str, float]]) -> None:
            lines.extend([f"# HELP mlxflow_{name} {explanation}", f"# TYPE mlxflow_{name} {kind}"])
            lines.extend(f"mlxflow_{name}{label} {value:.15g}" for label, value in values)

        family("info", "gauge", "What is served.", [(f'{{version="{__version__}"}}', 1)])
        family("up", "gauge", "Whether the worker is there.", [("", worker.alive)])
        family(
            "requests_total",
            "counter",
            "Requests answered.",
            [
                (f'{{route="{route}",status="{status}"}}', n)
                for (route, status), n in sorted(self.requests.items())
            ],
        )
        family(
            "jobs_total",
            "counter",
            "Jobs by how they ended.",
            [(f'{{end="{end}"}}', worker.counts[end]) for end in ("done", "cancelled", "failed", "refused")],
        )
        family(
            "pictures_total", "counter", "Pictures finished, drafts too.", [("", worker.counts["pictures"])]
        )
        family("jobs_waiting", "gauge", "Jobs that are not over.", [("", worker.waiting)])
        family("queue_limit", "gauge", "Jobs above which a request is refused.", [("", worker.queue)])
        if (memory := resident()) is not None:
            family("resident_bytes", "gauge", "Memory of the process.", [("", memory)])
        times = self.first_picture
        family(
            "first_picture_seconds",
            "histogram",
            "From the page's request to its first picture.",
            [(f'_bucket{{le="{limit}"}}', n) for limit, n in zip(BUCKETS, times.counts)]
            + [('_bucket{le="+Inf"}', times.total), ("_sum", times.sum), ("_count", times.total)],
        )
        return "\n".join(lines) + "\n"


def resident() -> int | None:
    """Bytes of memory that this process holds now, where the system says so (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
