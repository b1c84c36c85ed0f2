"""Where things are: the shipped files (beside the package in a checkout, inside it in a wheel), the cache."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def assets_dir() -> Path:
    """Data that the package contains: the embedded emoji sheet, captions, Unicode names."""
    return PACKAGE / "data" / "assets"


def weights_dir() -> Path:
    """The folder of shipped weights, one sub-folder per model."""
    installed = PACKAGE / "weights"
    return installed if installed.is_dir() else PACKAGE.parent / "weights"


def cache_dir() -> Path:
    """The user's cache folder for mlxflow: $XDG_CACHE_HOME/mlxflow, else ~/.cache/mlxflow. It need not exist.

    A relative XDG_CACHE_HOME is ignored, as the XDG Base Directory Specification asks. Without any home
    directory the answer is below /nonexistent, where nothing can be written.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        home = Path(os.path.expanduser("~"))
        base = (home if home.is_absolute() else Path("/nonexistent")) / ".cache"
    return base / "mlxflow"


def user_weights_dir() -> Path:
    """The folder of weights that the user has added: $XDG_DATA_HOME/mlxflow/weights, else
    ~/.local/share/mlxflow/weights. It need not exist."""
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not base.is_absolute():
        home = Path(os.path.expanduser("~"))
        base = (home if home.is_absolute() else Path("/nonexistent")) / ".local" / "share"
    return base / "mlxflow" / "weights"
