import json

import pytest

from mlxflow.cli.info import gflops, read_header, weights
from mlxflow.errors import MlxflowError
from mlxflow.runtime import mx

CONFIG = {"format": 1, "model": {"kind": "text-unet", "text": {"width": 3}, "unet": {"widths": [4, 5]}},
          "process": {"path": "condot", "prediction": "data", "floor": 0.05},
          "trained": {"steps": 12, "images": 3456}}
ARRAYS = {"unet.a": (2, 3), "unet.b.c": (5,), "text.a": (4, 1, 2), "text.b": ()}


@pytest.fixture
def folder(tmp_path):
    arrays = {name: mx.zeros(shape, mx.float16) for name, shape in ARRAYS.items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays, {"config": json.dumps(CONFIG)})
    return tmp_path


def test_the_header_has_every_shape(folder):
    header = read_header(folder / "model.safetensors")
    assert {name: tuple(entry["shape"]) for name, entry in header.items()} == ARRAYS


def test_parameters_are_counted_by_part(folder):
    assert weights(folder)["parameters"] == {"U-Net": "11", "text encoder": "9", "together": "20"}


def test_config_type_and_images_seen_are_told(folder):
    sections = weights(folder / "model.safetensors")
    assert sections["weights"]["type"] == "F16"
    assert sections["weights"]["trained"] == "12 steps, 3,456 images"
    assert sections["model"] == {"kind": "text-unet", "text": "width 3", "unet": "widths [4, 5]"}
    assert sections["process"]["floor"] == "0.05"


def test_a_file_that_was_cut_off_is_a_sentence(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(MlxflowError, match="was cut off"):
        weights(folder)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, b"\x02" + bytes(7) + b"[]",
                                     b"\x0a" + bytes(7) + b'{"a": "b"}'])
def test_another_kind_of_file_is_a_sentence(folder, content):
    file = folder / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(MlxflowError, match="model.safetensors"):
        weights(folder)
    with pytest.raises(MlxflowError, match="model.safetensors"):
        read_header(file)


def test_no_weights_is_exit_2(mlxflow_command, tmp_path):
    done = mlxflow_command("info", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr


def test_piped_there_is_one_line_for_each_value(mlxflow_command, tmp_path):
    done = mlxflow_command("info", "--device", "cpu", MLXFLOW_BLAS="off", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    title, *lines = done.stdout.splitlines()
    rows = dict(line.strip().split("  ", 1) for line in lines)
    assert title == "this installation:"
    assert rows["mlx"].strip() == mx.__version__
    assert rows["device"].strip().startswith("cpu (")
    assert rows["cache"].strip() == str(tmp_path / "mlxflow")
    assert {"mlxflow", "mlx-data", "numpy", "python", "matrix product", "BLAS", "mx.compile", "weights"} <= rows.keys()


def test_the_measured_speed_is_that_of_a_matrix_product():
    # Between a slow interpreter loop and any machine of this decade: the unit is right.
    assert 0.05 < gflops(256, 0.05) < 1e6


def test_weights_are_shown_with_their_parts(mlxflow_command, folder):
    done = mlxflow_command("info", str(folder))
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith(" ")] == [
        "weights:", "parameters:", "model:", "process:"]


def test_a_picture_says_what_made_it_and_names_its_weights(mlxflow_command, tmp_path):
    from PIL import Image

    from mlxflow.sampling.formats import encode
    from mlxflow.sampling.pipeline import digest
    from mlxflow.weights import resolve

    made = {"prompt": "smiling cat", "seed": 7, "guidance": 2.5, "weights": digest(resolve("emoji"))}
    for suffix in (".png", ".svg"):
        (tmp_path / f"x{suffix}").write_bytes(encode(Image.new("RGBA", (4, 4), "red"), suffix, made, "smiling cat"))
        done = mlxflow_command("info", f"x{suffix}")
        assert done.returncode == 0, done.stderr
        rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
        assert (rows["prompt"], rows["seed"], rows["guidance"]) == ("smiling cat", "7", "2.5")
        assert rows["weights"] == f"{made['weights']} (emoji)"
    Image.new("RGBA", (4, 4)).save(tmp_path / "plain.png")
    done = mlxflow_command("info", "plain.png")
    assert (done.returncode, done.stderr) == (2, "mlxflow: plain.png does not say what made it.\n")
