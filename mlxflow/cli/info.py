"""`mlxflow info [PATH]`: what this installation computes with; or what a weights file holds."""

import json
import struct
from pathlib import Path
from typing import Annotated

import typer

from mlxflow.cli.options import DeviceOption
from mlxflow.errors import MlxflowError


def info(
    path: Annotated[Path | None, typer.Argument(
        help="A weights folder, a run folder, a .safetensors file, the name of shipped weights (emoji), or a picture.",
        show_default=False)] = None,
    device: DeviceOption = None,
) -> None:
    """Versions, device, BLAS and its measured speed; with PATH what is known of a model, or of a picture that was drawn.

    Examples:

      mlxflow info emoji

      mlxflow info smiling-cat.png
    """
    if path is None:
        show({"this installation": installation()})
    else:
        show(picture(path) if is_picture(path) else weights(path))


def is_picture(path: Path) -> bool:
    """Whether a path is meant as a picture: by its ending."""
    from mlxflow.data.images import SUFFIXES

    return path.suffix.lower() in (*SUFFIXES, ".apng", ".svg")


def picture(path: Path) -> dict[str, dict[str, str]]:
    """What a picture's metadata say, by section; the weights are named if they are here."""
    from mlxflow.sampling.metadata import read

    made = read(path)
    if made is None:
        raise MlxflowError(f"{path} does not say what made it.")
    pictures = made.pop("pictures", None)
    rows = {"file": f"{path}, {path.stat().st_size:,} bytes"} | {name: text(value) for name, value in made.items()}
    if isinstance(made.get("weights"), str):
        rows["weights"] = weights_called(made["weights"])
    sections = {"picture": rows}
    if isinstance(pictures, list):
        sections["pictures in it"] = {str(i): text(one) for i, one in enumerate(pictures, 1)}
    return sections


def weights_called(sha256: str) -> str:
    """A digest, with the name of the weights that have it."""
    from mlxflow.sampling.pipeline import digest
    from mlxflow.weights import names, resolve

    known = next((name for name in names() if digest(resolve(name)) == sha256), "not here")
    return f"{sha256} ({known})"


def installation() -> dict[str, str]:
    """What there is, by name. Multiplies matrices for about 0.2 s."""
    import os
    import platform
    from importlib import metadata

    from mlxflow import __version__, paths, runtime
    from mlxflow.runtime import mx

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"

    blas = runtime.blas()
    known = mx.device_info().get("device_name", platform.machine())
    models = sorted(f.parent.name for f in paths.weights_dir().glob("*/model.safetensors"))
    rows = {
        "mlxflow": f"{__version__} in {paths.PACKAGE}",
        "mlx": mx.__version__,
        "mlx-data": version("mlx-data"),
        "numpy": version("numpy"),
        "python": f"{platform.python_version()}, {platform.platform(terse=True)}, {os.cpu_count()} cores",
        "device": f"{runtime.device()} ({known})",
        "matrix product": f"{gflops():.0f} GFLOP/s (float32, 1024 x 1024)",
        "BLAS": blas.name,
    }
    if blas.library:
        rows["BLAS file"] = blas.library if os.path.exists(blas.library) else "temporary copy, made at every start"
    if blas.slow:
        rows["BLAS is slow"] = f"25-40 times slower than OpenBLAS: {blas.slow}"
    rows["mx.compile"] = "active" if runtime.compiles() else (
        "inactive: operations run one by one" + (" (needs g++ on PATH)" if runtime.device() == "cpu" else ""))
    rows["cache"] = str(paths.cache_dir())
    rows["weights"] = f"{', '.join(models) or 'none'} in {paths.weights_dir()}"
    return rows


def gflops(n: int = 1024, seconds: float = 0.2) -> float:
    """Speed of an n x n float32 matrix product on the default device, in 1e9 operations a second: the best try."""
    import time

    from mlxflow.runtime import mx

    a = mx.random.normal((n, n), key=mx.random.key(0))
    mx.eval(a @ a)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        mx.eval(a @ a)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def weights(path: Path) -> dict[str, dict[str, str]]:
    """What a weights file says of itself, by section. The arrays are not read."""
    from mlxflow.weights import read_config, resolve

    file = resolve(path)
    header = read_header(file)
    config = read_config(file)
    trained = config.get("trained", {})
    about = {
        "file": str(file),
        "size": f"{file.stat().st_size / 1e6:.1f} MB",
        "type": ", ".join(sorted({entry["dtype"] for entry in header.values()})),
        "trained": ", ".join(f"{value:,} {key}" if isinstance(value, int) else f"{key} {value}"
                             for key, value in trained.items()) or "not recorded",
    }
    bits = config.get("quantization", {}).get("bits")
    if bits not in (4, 8):
        bits = None
    else:
        about["quantised"] = f"matrices to {bits} bits, in groups of {config['quantization'].get('group_size')}"
    counts = parameter_counts(header, bits)
    parameters = {part: f"{count:,}" for part, count in counts.items()}
    if len(counts) > 1:
        parameters["together"] = f"{sum(counts.values()):,}"
    sections = {"weights": about, "parameters": parameters}
    for section in ("model", "process"):
        sections[section] = {key: text(value) for key, value in config[section].items()}
    return sections


def read_header(file: Path) -> dict[str, dict]:
    """Type and shape of every array of a safetensors file, by name: {"dtype", "shape", "data_offsets"}.

    Raises MlxflowError when it is another kind of file, or shorter than its header says.
    """
    try:
        with open(file, "rb") as f:
            length = struct.unpack("<Q", f.read(8))[0]
            header = json.loads(f.read(length))
        header.pop("__metadata__", None)
        size = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        raise MlxflowError(f"{file} is not a safetensors file.") from None
    if file.stat().st_size < size:
        raise MlxflowError(f"{file} was cut off: it has {file.stat().st_size:,} bytes of {size:,}.")
    return header


def parameter_counts(header: dict[str, dict], bits: int | None = None) -> dict[str, int]:
    """Parameters by part of the model, the U-Net and the text encoder apart; most first.

    bits: of quantised weights, which are packed into 32-bit numbers; their scales and offsets are not counted.
    """
    from math import prod

    titles = {"unet": "U-Net", "text": "text encoder"}
    counts: dict[str, int] = {}
    for name, entry in header.items():
        part = titles.get(name.split(".")[0], "network")
        if bits and name.endswith((".scales", ".biases")):
            continue
        packed = 32 // bits if bits and entry["dtype"] == "U32" else 1
        counts[part] = counts.get(part, 0) + prod(entry["shape"]) * packed
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def text(value: object) -> str:
    """A config value on one line: "width 192, layers 2"."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {text(inner)}" for key, inner in value.items())
    return str(value)


def show(sections: dict[str, dict[str, str]]) -> None:
    """Prints a table of names and values for each section; without a terminal, one line for each value."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for title, rows in sections.items():
        if not console.is_terminal:
            width = max(map(len, rows), default=0)
            print(f"{title}:", *(f"  {name:<{width}}  {value}" for name, value in rows.items()), sep="\n")
            continue
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(Text(name), Text(value))
        console.print(table)
