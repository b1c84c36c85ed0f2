"""Does an MLX network compute what a plain PyTorch implementation of the same equations computes?

    twins.py     finds the PyTorch twins (tests/parity/twins in a checkout, mlxflow/twins in a wheel)
    pair.py      a network and its twin with the same weights; the output of every module of both, by name
    inputs.py    seeded inputs, made in NumPy, the edges among them
    errors.py    what is compared, how far off it is, and how far off it may be
    checks.py    forward, gradients, training steps, sampling
    report.py    all of it for a weights folder: a table and JSON

Everything is float32; set MLX_ENABLE_TF32=0 before MLX starts where its products would otherwise be shorter.
"""
