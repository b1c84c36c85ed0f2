"""What a person sees of a run: a live panel on a terminal, one line per report elsewhere."""

import sys
import time
from datetime import timedelta


class Progress:
    """Shows loss, images/s and time left. Use as a context manager."""

    def __init__(self, title: str):
        self.title = title
        self.live = None
        self.started = time.monotonic()
        self.last = {}
        self.validation = {}

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), refresh_per_second=4, transient=False)
            self.live.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self.live:
            self.live.__exit__(*error)
            self.live = None

    def step(self, step: int, limit: int, report) -> None:
        """After each step; `limit` is the last step, 0 when there is none."""
        if self.live:
            self.live.update(self.panel(step, limit, report))

    def panel(self, step: int, limit: int, report):
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        rows = Table.grid(padding=(0, 2))
        speed = report.images_per_second()
        loss = sum(report.losses) / len(report.losses) if report.losses else self.last.get("loss")
        rows.add_row("step", f"{step:,}" + (f" of {limit:,}" if limit else ""))
        rows.add_row("images", f"{report.state.images:,}")
        rows.add_row("loss", f"{loss:.4f}" if loss is not None else "-")
        for name, value in self.validation.items():
            rows.add_row(f"{name} loss", f"{value['loss']:.4f}")
        rows.add_row("images/s", f"{speed:.1f}")
        rows.add_row("time", str(timedelta(seconds=round(time.monotonic() - self.started))))
        if limit:
            left = (limit - step) * report.state.images / max(1, step) / max(1e-9, speed)
            rows.add_row("left", str(timedelta(seconds=round(left))))
            rows.add_row("", ProgressBar(total=limit, completed=step, width=40))
        return Panel(rows, title=self.title, title_align="left", subtitle="Ctrl-C saves and stops", expand=False)

    def report(self, line: dict) -> None:
        """A line of the log."""
        if "loss" in line:
            self.last = line
        else:
            self.validation = {n: v for n, v in line.items() if isinstance(v, dict)}
        if self.live:
            return
        if "loss" in line:
            text = (f"step {line['step']:>7,}  images {line['images']:>10,}  loss {line['loss']:.4f}  "
                    f"gradient {line['grad_norm']:.2f}  {line['images_per_second']:.1f} images/s")
        else:
            text = f"step {line['step']:>7,}  " + "  ".join(f"{n} loss {v['loss']:.4f}" for n, v in self.validation.items())
        print(text, file=sys.stderr, flush=True)
