"""The result of `mlxflow eval` for the eye: one self-contained HTML page, and PNG sheets.

The page needs no other file and no network: pictures lie in two large WebP pictures inside it, drawn ones in one and
real ones in the other, and each is shown by its position there.
"""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from mlxflow.data.images import load_all
from mlxflow.evaluation.evaluate import Shown
from mlxflow.sampling.output import grid

TITLES = {
    "names": ("Names", "Each emoji asked for by its Unicode name: is the real one the nearest of all?"),
    "prompts": ("Prompts", "The same emoji in everyday words that training has never seen."),
    "combinations": ("Combinations", "A skin tone on a person that training has shown in others only: is the right one "
                                     "the nearest of the person's variants?"),
    "compositions": ("Compositions", "Two ideas in one picture, put together of real ones in a way that training has never "
                                     "shown: is it the nearest of all these and all real ones?"),
    "novel": ("Novel", "Things that do not exist, for the eye, with the training picture nearest to each."),
}
COLUMNS = 32  # of the WebP pictures: their sides stay within its limit of 16,383 pixels
SHEET = 96  # pictures of a part on its PNG sheet


def sheet(shown: Shown, size: int) -> Image.Image:
    """A part's first pictures, each above the real one that was asked for; novel ones alone."""
    count = min(SHEET, len(shown.questions))
    drawn = [question.prompt for question in shown.questions[:count]]
    if shown.rank is None:
        return grid(shown.pictures[:count], 10, drawn, "white")
    real = load_all([question.right[0] for question in shown.questions[:count]], size)
    pictures, captions, columns = [], [], 12
    for start in range(0, count, columns):
        row = range(start, min(start + columns, count))
        blank = [np.zeros_like(real[0])] * (columns - len(row))
        pictures += [*shown.pictures[row.start : row.stop], *blank, *real[row.start : row.stop], *blank]
        captions += [drawn[i] for i in row] + [""] * len(blank)
        captions += [_verdict(shown, i) for i in row] + [""] * len(blank)
    return grid(np.stack(pictures), columns, captions, "white")


def _verdict(shown: Shown, i: int) -> str:
    """Under the right picture: its skin tone, which a short caption loses, and its rank."""
    tone = shown.questions[i].right[0].extra.get("skin_tone")
    rank = "found" if shown.rank[i] == 0 else f"number {shown.rank[i] + 1}"
    return f"{tone.replace('-', ' ')}: {rank}" if tone else rank


def page(title: str, result: dict, shown: dict[str, Shown], size: int) -> str:
    """The HTML page of a result (`Evaluation`) and its pictures; `size` is their side."""
    records = list({r.file_name: r for part in shown.values()
                    for r in (*part.found, *(q.right[0] for q in part.questions if q.right))}.values())
    place = {record.file_name: i for i, record in enumerate(records)}
    drawn = [part.pictures for part in shown.values()]
    sections, first = [], 0
    for name, part in shown.items():
        sections.append(_section(name, part, result[name], first, place))
        first += len(part.questions)
    sprites = "".join(f".{name}{{background-image:url({_sprite(pictures)})}}" for name, pictures in (
        ("d", np.concatenate(drawn) if drawn else np.zeros((0, size, size, 4), np.uint8)),
        ("r", load_all(records, size))) if len(pictures))
    settings, trained = result["settings"], result["weights"]["trained"] or {}
    facts = [f"{trained['images']:,} training images" if trained.get("images") else "",
             f"{settings['steps']} steps of {settings['solver']}, guidance {settings['guidance']:g}, "
             f"seed {settings['seed']}",
             f"at most {settings['limit']} of each part" if settings["limit"] else "everything",
             f"weights {result['weights']['sha256'][:12]}"]
    body = [f"<h1>{escape(title)}</h1><p class=facts>{' · '.join(escape(fact) for fact in facts if fact)}</p>",
            _numbers(result), _sweep(result.get("sweep")), _validation(result.get("validation")), *sections]
    return (f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
            f"<meta name=viewport content='width=device-width'><style>{STYLE}{sprites}</style>"
            f"<main>{''.join(body)}</main></html>\n")


def _sprite(pictures: np.ndarray) -> str:
    """All pictures in rows of COLUMNS, as a data URI."""
    size = pictures.shape[1]
    rows = -(-len(pictures) // COLUMNS)
    canvas = np.zeros((rows * COLUMNS, size, size, 4), np.uint8)
    canvas[: len(pictures)] = pictures
    image = Image.fromarray(np.ascontiguousarray(
        canvas.reshape(rows, COLUMNS, size, size, 4).swapaxes(1, 2).reshape(rows * size, COLUMNS * size, 4)))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=88, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _tile(kind: str, index: int, label: str) -> str:
    x, y = index % COLUMNS, index // COLUMNS
    return (f'<i class="t {kind}" role=img aria-label="{escape(label)}" title="{escape(label)}" '
            f'style="--x:{x};--y:{y}"></i>')


def _section(name: str, part: Shown, numbers: dict, first: int, place: dict[str, int]) -> str:
    heading, explained = TITLES[name]
    cards = []
    for i, question in enumerate(part.questions):
        tiles = _tile("d", first + i, "drawn")
        if part.rank is None:
            state = "near" if part.distance[i] < numbers["copy_below"] else "far"
            note = f"nearest: {part.found[i].text}, {part.distance[i]:.2f}"
            tiles += _tile("r", place[part.found[i].file_name], part.found[i].text)
        else:
            right, rank = question.right[0], part.rank[i]
            state = "found" if rank == 0 else "five" if rank < 5 else "missed"
            note = "found" if rank == 0 else f"is number {rank + 1}, after {part.found[i].text}"
            tiles += _tile("r", place[right.file_name], f"asked for: {right.text}")
            if rank:
                tiles += _tile("r", place[part.found[i].file_name], f"nearest: {part.found[i].text}")
        cards.append(f'<figure class="{state}"><div>{tiles}</div><figcaption>{escape(question.prompt)}'
                     f"<small>{escape(note)}</small></figcaption></figure>")
    if part.rank is None:
        key = (f"{numbers['copies']} of {numbers['n']} are nearer than {numbers['copy_below']:g} to a training picture "
               f"(marked); the median distance is {numbers['median_distance']:.2f}.")
        return f"<section><h2>{heading}</h2><p>{explained} {key}</p><div class=cards>{''.join(cards)}</div></section>"
    counts = {"found": int((part.rank < 1).sum()), "five": int(((part.rank > 0) & (part.rank < 5)).sum())}
    counts["missed"] = len(part.rank) - sum(counts.values())
    words = {"found": "found", "five": "in the first five", "missed": "missed"}
    boxes = "".join(f'<label class="{k}"><input type=checkbox class="c-{k}" checked> {words[k]} {counts[k]:,}</label>'
                    for k in counts)
    return (f"<section><h2>{heading}</h2><p>{explained} Left is drawn, right is real"
            f"{', then what it was taken for' if counts['found'] < len(part.rank) else ''}.</p>"
            f"<div class=filter>{boxes}</div><div class=cards>{''.join(cards)}</div></section>")


def _numbers(result: dict) -> str:
    rows = []
    for name, (heading, _) in TITLES.items():
        for key, value in (result.get(name) or {}).items():
            if key.startswith("R@") and isinstance(value, dict):
                among = f", chance {result[name]['chance']} %" if "chance" in result[name] else ""
                rows.append(_bar(f"{heading} {key}", value, f"{result[name]['n']:,} asked{among}"))
    found = result.get("combinations")
    if found:
        rows.append(f"<tr><th>Combinations error<td><b>{found['mse']:.4f}</b><td colspan=2>mean squared, against "
                    f"{found['mse_of_nearest_training_variant']:.4f} of the nearest training variant; nearer in "
                    f"{found['nearer_than_training_variant']['value']} %")
    return f"<table class=numbers>{''.join(rows)}</table>" if rows else ""


def _bar(label: str, value: dict, note: str) -> str:
    return (f"<tr><th>{escape(label)}<td><b>{value['value']:.1f} %</b><td><div class=bar><span style='width:"
            f"{value['value']}%'></span><em style='left:{value['low']}%;width:{value['high'] - value['low']:.1f}%'>"
            f"</em></div><td>{value['low']:.1f} to {value['high']:.1f} %, {escape(note)}")


def _sweep(rows: Sequence[dict] | None) -> str:
    if not rows:
        return ""
    head = "<tr><th>steps<th>guidance<th>names R@1<th>R@5<th>prompts R@1<th>R@5<th>combinations R@1<th>error"
    lines = []
    for row in rows:
        cells = [f"{row[part][key]['value']:.1f}" if part in row else ""
                 for part, key in (("names", "R@1"), ("names", "R@5"), ("prompts", "R@1"), ("prompts", "R@5"),
                                   ("combinations", "R@1"))]
        cells.append(f"{row['combinations']['mse']:.4f}" if "combinations" in row else "")
        lines.append(f"<tr><td>{row['steps']}<td>{row['guidance']:g}" + "".join(f"<td>{cell}" for cell in cells))
    return f"<h2>Steps and guidance</h2><table class=plain>{head}{''.join(lines)}</table>"


def _validation(found: dict | None) -> str:
    if not found:
        return ""
    lines = []
    for split, parts in found.items():
        for told, part in ((t, parts[t]) for t in ("prompt", "no_prompt")):
            for key in ("", "floor_"):
                if f"{key}bins" in part:
                    what = "floor" if key else f"{split}, {told.replace('_', ' ')}"
                    mean = part["floor" if key else "loss"]
                    excess = "" if key or "excess" not in part else f"{part['excess']:.4f}"
                    lines.append(f"<tr{' class=floor' if key else ''}><th>{what}<td><b>{mean:.4f}</b><td>{excess}"
                                 + "".join(f"<td>{value:.3f}" for value in part[f"{key}bins"]))
    head = "<tr><th><th>mean<th>excess" + "".join(f"<th>t {b / 10:.1f}" for b in range(10))
    return (f"<h2>Validation loss</h2><p>By time, beside the floor that a perfect memory of the folder would score."
            f"</p><table class=plain>{head}{''.join(lines)}</table>")


STYLE = """
:root{color-scheme:light dark;--paper:#fff;--card:#f5f5f7;--ink:#1d1d1f;--soft:#6e6e73;--good:#248a3d;--half:#b25000;
--bad:#c9302c}
@media(prefers-color-scheme:dark){:root{--paper:#161617;--card:#232326;--ink:#f5f5f7;--soft:#98989d;--good:#30d158;
--half:#ff9f0a;--bad:#ff6961}}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 -apple-system,system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:40px 20px 80px}
h1{font-size:34px;letter-spacing:-.02em;margin:0}h2{font-size:24px;margin:48px 0 4px}
.facts,section p,p{color:var(--soft);margin:4px 0 20px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:5px 14px 5px 0;text-align:left;
font-weight:400;white-space:nowrap}.plain{display:block;overflow-x:auto}
.plain th{color:var(--soft)}.floor{color:var(--soft)}
.numbers{width:100%}.numbers td:nth-child(3):not([colspan]){width:40%}.numbers td:last-child{color:var(--soft)}
.bar{position:relative;height:10px;border-radius:5px;background:var(--card);overflow:hidden;min-width:120px}
.bar span{position:absolute;inset:0 auto 0 0;background:#0071e3;border-radius:5px}
.bar em{position:absolute;top:4px;height:2px;background:var(--ink);opacity:.6}
.filter{display:flex;gap:18px;margin:0 0 14px;flex-wrap:wrap}.filter input{accent-color:currentColor}
.filter .found{color:var(--good)}.filter .five{color:var(--half)}.filter .missed{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(232px,1fr));gap:10px}
figure{margin:0;background:var(--card);border-radius:12px;padding:10px;content-visibility:auto;
contain-intrinsic-size:auto 120px;border-left:3px solid transparent}
figure.found{border-color:var(--good)}figure.five{border-color:var(--half)}figure.missed{border-color:var(--bad)}
figure.near{border-color:var(--half)}
figure div{display:flex;gap:4px;align-items:end}
.t{display:block;flex:none;width:72px;height:72px;background-size:calc(72px*COLUMNS) auto;
background-position:calc(var(--x)*-72px) calc(var(--y)*-72px)}
.t.d{width:72px}.t+.t+.t{opacity:.55}
figcaption{font-size:13px;overflow-wrap:anywhere}small{display:block;color:var(--soft)}
section:has(.c-found:not(:checked)) figure.found,section:has(.c-five:not(:checked)) figure.five,
section:has(.c-missed:not(:checked)) figure.missed{display:none}
""".replace("COLUMNS", str(COLUMNS))
