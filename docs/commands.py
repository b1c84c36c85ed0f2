"""Writes commands.md: what every command prints, by running it: python docs/commands.py (a few minutes).

They run one after the other in an empty folder that is thrown away, with the weights that ship, and none is left out
because of what it says. Lines that only count on are cut out in the middle ("...").
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
MOST = 16  # lines of one command's output
SHORT = "--set batch=8 --set log_every=2 --set sample_every=100 --set validate_every=100"

COMMANDS = {
    "Pictures": [
        'mlxflow generate "smiling cat" --seed 7',
        'mlxflow generate "red heart" "slice of pizza" -n 2 --seed 1 --grid -o hearts.png',
        'mlxflow generate "rocket" --for slack -o rocket.png',
        'mlxflow generate "rocket" --trajectory rocket.gif --seed 2 -o rocket.webp',
        'mlxflow generate "smiling cat" -n 8 --best 2 --steps 8 --seed 1-8',
        "mlxflow info smiling-cat.png",
        "mlxflow generate --like smiling-cat.png -o again.png",
        "mlxflow generate --like smiling-cat.png --vary 0.3 -n 2",
        'mlxflow generate "smiling cat" --steps -3',
        'mlxflow generate "smiling cat" --solver huen',
    ],
    "Editing": [
        'mlxflow edit redraw smiling-cat.png "fox" --strength 0.7 -o fox.png',
        'mlxflow edit inpaint smiling-cat.png "cat with heart eyes" --box 10,18,54,34 -o heart-eyes.png',
        'mlxflow edit reword smiling-cat.png "panda" -o panda.png',
        'mlxflow edit morph "full moon" "sun with face" -o moon.gif',
    ],
    "Data and training": [
        "mlxflow data emoji emoji/ --source embedded",
        "mlxflow data show emoji/",
        f"mlxflow train --data emoji/ --config CONFIG --init emoji --run runs/mine --steps 6 {SHORT}",
        "mlxflow train --run runs/mine --resume --steps 8",
        "mlxflow train --run runs/mine --data emoji/",
        'mlxflow generate "red heart" --weights runs/mine -o heart.png',
        f"mlxflow distill runs/mine --data emoji/ -o runs/few --guidance 3 --steps 2 {SHORT}",
        "mlxflow inspect emoji",
        "mlxflow eval emoji --data emoji/ --limit 8 --steps 8",
    ],
    "Weights": [
        "mlxflow info emoji",
        "mlxflow weights add runs/mine mine",
        "mlxflow weights list",
        "mlxflow weights remove mine",
        "mlxflow convert emoji emoji.pt --to torch",
        "mlxflow convert emoji.pt back",
        "mlxflow convert emoji emoji-8bit --quantize 8",
        "mlxflow convert emoji emoji.mlxfn --to mlxfn",
        "mlxflow convert emoji.pt back",
    ],
    "Digits": [
        "mlxflow sample mnist --class-grid --per-class 4 -o digits.png",
        "mlxflow sample mnist --label 7 -n 2 --solver dopri5 -o seven.png",
    ],
    "The machine": ["mlxflow info"],
}


def said(command: str, folder: Path) -> tuple[str, int]:
    """What the command prints, both streams as they come, without paths of this machine; and its exit status."""
    program = [sys.executable, "-m", "mlxflow"]
    recipe = ROOT / "apps/emoji/laptop.toml"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "110", "NO_COLOR": "1", "XDG_DATA_HOME": str(folder / "share")}
    words = [str(recipe) if word == "CONFIG" else word for word in re.findall(r'"[^"]*"|\S+', command)[1:]]
    done = subprocess.run([*program, *(word.strip('"') for word in words)], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.replace(str(folder) + "/", "").replace(str(ROOT) + "/", "").replace(str(Path.home()), "~")
    return text.rstrip(), done.returncode


def cut(text: str) -> str:
    lines = text.splitlines()
    if len(lines) <= MOST:
        return text
    half = MOST // 2
    return "\n".join([*lines[:half], "...", *lines[-half:]])


def main() -> None:
    parts = ["# What every command prints\n\nWritten by `python docs/commands.py`, which runs them in this order in an empty "
             "folder, on Linux with two CPU cores that had other work too, and the weights that ship. A few are wrong on purpose.\n"]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        for title, commands in COMMANDS.items():
            parts.append(f"## {title}\n")
            for command in commands:
                begun = time.perf_counter()
                text, status = said(command, folder)
                print(f"{time.perf_counter() - begun:6.1f} s  {status}  {command}", file=sys.stderr, flush=True)
                shown = command.replace("CONFIG", "apps/emoji/laptop.toml")
                ends = f"\n[exit {status}]" if status else ""
                parts.append(f"```\n$ {shown}\n{cut(text)}{ends}\n```\n")
    (HERE / "commands.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
