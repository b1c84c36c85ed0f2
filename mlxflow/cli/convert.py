"""`mlxflow convert SRC DST`: weights to and from PyTorch, other number formats, and functions for other programs."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mlxflow.cli.options import DeviceOption

# As in generate: the products are small, and OpenBLAS's threads wait in a spin. Set before the runtime loads it.
if "OMP_NUM_THREADS" not in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A PyTorch checkpoint (.pt, .pth, .safetensors), a diffusers "
                                          "folder with an AutoencoderKL, a weights folder, a run, or shipped weights.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The weights folder to make; with --to torch a .pt, .pth or "
                                           ".safetensors file, with --to mlxfn an .mlxfn file.")],
    to: Annotated[Literal["mlx", "torch", "mlxfn"], typer.Option(help="mlx: a weights folder. torch: a PyTorch file. "
                  "mlxfn: the sampler's step as a function for MLX in C++, Swift or C.")] = "mlx",
    dtype: Annotated[Literal["float16", "bfloat16", "float32"] | None, typer.Option(
        show_default=False, help="Type of the numbers. [default: as they are in SRC]")] = None,
    quantize: Annotated[Literal["8", "4"] | None, typer.Option(show_default=False, help="Bits of the numbers in matrices "
                        "(convolutions and the rest keep their type); says what it costs.")] = None,
    config: Annotated[Path | None, typer.Option(show_default=False, help="What the network is, if SRC does not say: the "
                                                "config.json of weights or of a run, or a TOML recipe.")] = None,
    like: Annotated[str | None, typer.Option(show_default=False, help="What the network is, if SRC does not say: weights "
                                             "of the same network, with their word table.")] = None,
    data: Annotated[Path | None, typer.Option(show_default=False, help="With --quantize: the pictures to measure its cost "
                                              "on. [default for words: the embedded emoji]")] = None,
    limit: Annotated[int, typer.Option(help="With --quantize: measure on at most this many pictures.")] = 64,
    force: Annotated[bool, typer.Option("--force", help="Replace DST if it exists.")] = False,
    device: DeviceOption = None,
) -> None:
    """Convert weights. Names, shapes and values are checked first; DST appears whole or not at all.

    Example: mlxflow convert model.pt weights/mine --like emoji
    """
    from mlxflow.errors import MlxflowError
    from mlxflow.interop import convert as conversion

    if to == "torch" and quantize:
        raise MlxflowError("PyTorch has no form of MLX's quantised matrices: leave out --quantize or --to torch.")
    if data is not None and not quantize:
        raise MlxflowError("--data is for measuring what --quantize costs: add --quantize 8 or 4.")
    if data is not None and not data.is_dir():
        raise MlxflowError(f"There is no folder {data} to measure on.")
    if limit < 1:
        raise MlxflowError(f"--limit must be 1 or more, not {limit}.")
    bits = int(quantize) if quantize else None
    found = conversion.read(source, config, like)
    if found.note:
        _note(f"{found.file} holds {found.note}.")
    converted = conversion.typed(found, dtype)
    if to == "torch":
        written = conversion.write_torch(converted, target, force=force)
        for what, path in (("word table", found.words), ("autoencoder", found.autoencoder)):
            if path is not None:
                _note(f"the {what} is no part of it: {path} belongs to these weights.")
    elif to == "mlxfn":
        from mlxflow.interop.export import export

        written = export(converted.model(bits), target, force)
    else:
        written = conversion.write_weights(converted, target, quantise=bits, force=force)
    for file in (found.file, written):
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB", flush=True)
    if bits:
        _cost(found, converted, bits, data, limit)
    print(target)


def _cost(found, converted, bits: int, data: Path | None, limit: int) -> None:
    """Prints how much is quantised, and loss and retrieval before and after."""
    import tempfile

    from mlxflow.cli.eval import progress
    from mlxflow.interop import cost

    after = converted.model(bits)
    print(f"{cost.share_quantised(after):.0%} of the numbers are quantised to {bits} bits; convolutions, vectors and "
          "tables are not", flush=True)
    with tempfile.TemporaryDirectory() as work:
        if data is None and found.network.kind == "text-unet":
            from mlxflow.data.emoji import build_emoji

            data = Path(work) / "emoji"
            build_emoji(data, source="embedded", size=found.network.shape[0])
        if data is None:
            _note("add --data FOLDER to see what it costs in loss.")
            return
        with progress() as (report, _):
            rows = [cost.measures(model, data, limit, Path(work) / name,
                                  lambda what, done, name=name: report(f"{name}: {what}", done))
                    for name, model in (("before", found.model()), ("after", after))]
    print(f"{'':28} {'before':>22} {'after':>22}")
    for name, before in rows[0].items():
        print(f"{name:28} {before:>22} {rows[1][name]:>22}", flush=True)


def _note(text: str) -> None:
    print(f"mlxflow: {text}", file=sys.stderr)
