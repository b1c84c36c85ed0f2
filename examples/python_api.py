"""mlxflow from Python: draw, watch, choose, edit, save.

    python examples/python_api.py [FOLDER [WEIGHTS]]
"""

import sys
from pathlib import Path

import mlxflow

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "example-pictures")
model = mlxflow.load(sys.argv[2] if len(sys.argv) > 2 else "emoji")

# One picture: a PIL image with a transparent background. The same seed is the same picture.
cat = model.generate("smiling cat", seed=7)
print(model.save(cat, folder / "cat.png"))  # the PNG says what made it: `mlxflow info cat.png`

# Watch it being drawn: each preview is the model's estimate of the finished picture.
for preview in model.stream("red heart", seed=1):
    print(f"step {preview.step}: t = {preview.t:.2f}, {preview.nfe} evaluations")
print(model.save(preview.image, folder / "heart.webp"))

# Several at once, and the two that fit the words best of eight, by the model's own judgement.
for picture in model.generate(["pizza", "rocket"], n=8, best=2, seed=1, steps=4, size=128):
    made_by = picture.info["made_by"]
    print(model.save(picture, folder / f"{made_by['prompt']}-{made_by['seed']}.png"))

# Variations of a picture, an edit of a part (the rest keeps its pixels), and one thing becoming another.
small_changes = model.generate("smiling cat", seed=7, n=3, vary=0.3, steps=4)
third = model.size // 3
with_glasses = model.inpaint(cat, "cat wearing sunglasses", box=(0, third, model.size, 2 * third), seed=1, steps=4)
print(model.save(with_glasses, folder / "glasses.png"))
frames = model.morph("full moon", "sun with face", frames=5, seed=7, steps=4)
frames[0].save(folder / "moon.gif", save_all=True, append_images=frames[1:], duration=200, loop=0, disposal=2)
print(f"{folder / 'moon.gif'}: {len(small_changes)} variations were drawn as well")
