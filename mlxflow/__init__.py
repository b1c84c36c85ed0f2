"""mlxflow: flow matching in MLX, and an emoji generator made with it."""

__version__ = "0.1.0"
