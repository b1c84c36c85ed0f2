"""Where the shipped files are: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def assets_dir() -> Path:
    """Data that the package contains: the embedded emoji sheet, captions, Unicode names."""
    return PACKAGE / "data" / "assets"


def weights_dir() -> Path:
    """The folder of shipped weights, one sub-folder per model."""
    installed = PACKAGE / "weights"
    return installed if installed.is_dir() else PACKAGE.parent / "weights"
