"""Words to pictures: one loop over a solver's states, for the command line, Python, previews and evaluation.

The last step goes straight to the data that the velocity points at, and is no shorter than `last`. The velocity
of a data-predicting network, (x1_hat - x) / (1 - t), has its divisor floored near t = 1: from outside the floored
stretch one step lands on x1_hat exactly, while steps inside it would leave a part of the noise in the picture
(EDM, Karras et al. 2022, stops at sigma_min and steps to 0 likewise).

A picture is a function of its prompt, its seed, the settings and the weights: picture i of a prompt has the seed
`seed + i`, its noise comes from that seed alone, and with `batch=1` (the default) the network never sees two
pictures at once, so on one machine the bytes are the same whatever else was asked for with it. A larger batch is
quicker a picture, but matrix products of another shape may round differently: pictures can then differ in a
pixel's last bit.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mlxflow import runtime, weights
from mlxflow.data.images import unpremultiply
from mlxflow.data.words import WordTable
from mlxflow.errors import MlxflowError
from mlxflow.flow import guidance as guide
from mlxflow.flow import fewstep, solvers
from mlxflow.flow.paths import Path as FlowPath
from mlxflow.runtime import mx

MAX_STEPS, MAX_GUIDANCE, MAX_SEED = 1000, 100.0, 2**63 - 1
MAX_PICTURES = 256
_VARY = 21
# The solver of few-step models: `mlxflow distill` makes them, flow/fewstep.py says how they draw.
SHORTCUT = "shortcut"
SOLVERS = (*solvers.NAMES, SHORTCUT)
# Where guidance by words ends, unless told otherwise: by then it is settled what the picture is, and further guidance only
# hardens colours and edges (Kynkaanniemi et al. 2024; measured in apps/emoji/README.md).
GUIDE_UNTIL = 0.3
# Far more than a model reads (24 words); what is longer was pasted by mistake.
MAX_CHARACTERS = 1000


def time_grid(steps: int, last: float) -> list[float]:
    """steps + 1 times from 0 to 1, (i / steps)^2 but for a last step of at least `last` (0 < last < 1).

    Steps are short near the noise, where the words decide what the picture is: 8 of these find the right emoji as
    often as 16 equal ones.
    """
    times = [(i / steps) ** 2 for i in range(steps + 1)]
    squeeze = min(1.0, (1 - last) / times[-2]) if steps > 1 else 1.0
    return [t * squeeze for t in times[:-1]] + [1.0]


def states(velocity: Callable, condition: Any, null_condition: Any, noise: mx.array, steps: int = 16,
           solver: str = "heun", guidance: float = 1.0, *, guide_until: float = 1.0, path: FlowPath = solvers.STRAIGHT,
           last: float = 0.05, **settings) -> Iterator[solvers.State]:
    """A generator of the solver's states from noise `[B, S, S, C]` to pictures, one a step, already evaluated.

    velocity(x, t `[B]`, condition) is the model; condition and null_condition are trees of arrays of batch B (or
    1). guidance 1 asks the model once a call and leaves null_condition unused; any other scale asks it with both, as
    long as t <= guide_until.
    Each state has `x1_estimate`, the picture that the step was heading for. dopri5 chooses its own steps up to the
    last; a few-step model's "shortcut" makes `steps` jumps, which need velocity(x, t, condition, h) and no guidance.
    `settings` are the solver's own. Raises MlxflowError for an unknown solver, steps < 1, guidance < 0 or NaN, or a
    state that turns NaN.
    """
    if solver == SHORTCUT:
        told = guide.expand(condition, len(noise))
        yield from fewstep.jumps(lambda x, t, h: velocity(x, t, told, h), path.start(noise), fewstep.jump_grid(steps), path)
        return
    guided = guide.classifier_free(velocity, condition, null_condition, guidance, interval=(0.0, guide_until))
    times = time_grid(steps, last)
    state = solvers.State(0.0, path.start(noise), noise, 0)
    for state in solvers.solve(solver, guided, state.x, times[:-1], path, **settings) if steps > 1 else ():
        yield state
    for end in solvers.solve("euler", guided, state.x, times[-2:], path):
        yield end._replace(x=end.x1_estimate, nfe=state.nfe + end.nfe)


def sample(velocity: Callable, condition: Any, null_condition: Any, noise: mx.array, steps: int = 16,
           solver: str = "heun", guidance: float = 1.0, **settings) -> mx.array:
    """The pictures `[B, S, S, C]` at the end of `states`, about [-1, 1], premultiplied for RGBA."""
    for state in states(velocity, condition, null_condition, noise, steps, solver, guidance, **settings):
        pass
    return state.x


@dataclass(frozen=True)
class Settings:
    """How to sample; raises MlxflowError for values that make no sense."""

    steps: int = 16
    solver: str = "heun"
    guidance: float = 3.0
    negative: str = ""
    guide_until: float = 1.0
    """The last time, from 0 (noise) to 1 (the picture), that is guided."""

    def __post_init__(self):
        if not 1 <= self.steps <= MAX_STEPS:
            raise MlxflowError(f"The number of steps must be between 1 and {MAX_STEPS}, not {self.steps}.")
        if self.solver not in SOLVERS:
            raise MlxflowError(f"There is no solver '{self.solver}': choose one of {', '.join(SOLVERS)}.")
        if not 0 <= self.guidance <= MAX_GUIDANCE:
            raise MlxflowError(f"The guidance must be between 0 and {MAX_GUIDANCE:g}, not {self.guidance:g}.")
        if not 0 <= self.guide_until <= 1:
            raise MlxflowError("Guidance ends at a time between 0, the noise, and 1, the picture, not "
                               f"{self.guide_until:g}.")
        if self.negative:
            check_prompt(self.negative)
            if self.guidance <= 1:
                raise MlxflowError("A negative prompt needs guidance above 1: it is what the guidance leads away from.")

    def described(self) -> dict[str, Any]:
        """As metadata: what is not there is nothing (negative), or 1 (guide_until)."""
        made = {"steps": self.steps, "solver": self.solver, "guidance": self.guidance}
        if self.guide_until < 1 and self.guidance != 1:
            made["guide_until"] = self.guide_until
        return made | ({"negative": self.negative} if self.negative else {})


def settings_for(config: dict, steps: int | None = None, solver: str | None = None, guidance: float | None = None,
                 negative: str = "", guide_until: float | None = None) -> Settings:
    """The settings for a model with that config: what is None is the model's own default.

    A few-step model makes 4 jumps and has its guidance built in; others take 16 steps of heun, with guidance 3 where
    they are told words or classes; by words it ends at GUIDE_UNTIL. Raises MlxflowError for what the model cannot do.
    """
    built_in = config["process"].get("few_step")
    told = bool(config.get("words") or config.get("classes"))
    solver = solver or (SHORTCUT if built_in else Settings.solver)
    if steps is None:
        steps = 4 if solver == SHORTCUT else Settings.steps
    if guidance is None:
        guidance = Settings.guidance if told and not built_in else 1.0
    if guide_until is None:
        guide_until = GUIDE_UNTIL if config.get("words") and not built_in else 1.0
    settings = Settings(steps, solver, guidance, negative, guide_until)
    check_settings(settings, config)
    return settings


def check_settings(settings: Settings, config: dict) -> None:
    """Raises MlxflowError if the model of that config cannot draw by the settings."""
    built_in = config["process"].get("few_step")
    if settings.solver != SHORTCUT:
        return
    if not built_in:
        raise MlxflowError("The solver 'shortcut' needs a few-step model: `mlxflow distill` makes one of this model.")
    if settings.guidance != 1:
        raise MlxflowError(f"This model has a guidance of {built_in['guidance']:g} built in: set the guidance to 1, or "
                           "leave it out.")
    fewstep.jump_grid(settings.steps)


class Request(NamedTuple):
    """One picture to make. variations: (strength, number) pairs, each a step away from the seed's noise."""

    prompt: str
    seed: int
    variations: tuple[tuple[float, int], ...] = ()

    def noise(self, shape: tuple[int, ...]) -> mx.array:
        """Standard normal `[1, *shape]`: that of the seed, then for each variation of strength s mixed with that of
        its number, x0 <- sqrt(1 - s^2) x0 + s fresh, which is standard normal again."""
        key = mx.random.split(mx.random.key(self.seed))[0]
        noise = mx.random.normal((1, *shape), key=key)
        for depth, (strength, number) in enumerate(self.variations):
            low, high = np.random.SeedSequence([self.seed, _VARY, depth, number]).generate_state(2)
            fresh = mx.random.normal((1, *shape), key=mx.random.key(int(high) << 32 | int(low)))
            noise = math.sqrt(1 - strength**2) * noise + strength * fresh
        return noise


class Frame(NamedTuple):
    """After a step: which request the pictures belong to, how far they are, and how they look so far."""

    index: int
    t: float
    nfe: int
    pixels: np.ndarray
    """uint8 [S, S, 4], straight alpha: the model's estimate of the picture; at t = 1 the picture."""
    x: np.ndarray | None = None
    """float32 [S, S, 4], premultiplied: the state itself, partly noise."""


def requests_for(prompts: Sequence[str], n: int, seed: int) -> list[Request]:
    """n pictures of each prompt in turn, with the seeds seed, seed + 1, ... Raises MlxflowError for bad input."""
    if not 1 <= n <= MAX_PICTURES:
        raise MlxflowError(f"The number of pictures of a prompt must be between 1 and {MAX_PICTURES}, not {n}.")
    if not 0 <= seed <= MAX_SEED - n:
        raise MlxflowError(f"The seed must be between 0 and {MAX_SEED - MAX_PICTURES}, not {seed}.")
    for prompt in prompts:
        check_prompt(prompt)
    return [Request(prompt, seed + i) for prompt in prompts for i in range(n)]


def varied(requests: Sequence[Request], strength: float, n: int) -> list[Request]:
    """n variations of each request, numbered from 1: strength 0 is the same picture, 1 another one altogether."""
    if not 0 < strength <= 1:
        raise MlxflowError(f"The strength of a variation must be above 0 and at most 1, not {strength:g}.")
    if not 1 <= n <= MAX_PICTURES:
        raise MlxflowError(f"The number of variations must be between 1 and {MAX_PICTURES}, not {n}.")
    return [request._replace(variations=(*request.variations, (strength, i)))
            for request in requests for i in range(1, n + 1)]


def check_prompt(prompt: str) -> None:
    """Raises MlxflowError for a prompt that is empty, far too long, or not text."""
    if not prompt.strip():
        raise MlxflowError("The prompt is empty: say in a few words what to draw.")
    if len(prompt) > MAX_CHARACTERS:
        raise MlxflowError(f"The prompt has {len(prompt):,} characters: use at most {MAX_CHARACTERS:,}, "
                           "a few words are best.")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise MlxflowError("The prompt is not valid UTF-8 text.") from None


class Pipeline:
    """A model that is ready to draw: its word table, its velocity, and the encoded prompts of before."""

    def __init__(self, model: weights.Model):
        self.model = model
        if model.words_path is None:
            raise MlxflowError(f"{model.source} is told no words: draw from it with `mlxflow sample`.")
        self.words = WordTable.load(model.words_path)
        self.length = model.network.text.config.length
        process = model.config["process"]
        self.path, self.last = weights.path_of(process), process["floor"]
        # On the CPU every new fused kernel costs a run of g++, some 19 s in all; it would save 0.2 s a picture.
        self.velocity = model.velocity(compiled=runtime.device() != "cpu")
        self.null = self._encode("")
        self.conditions: dict[str, Any] = {}

    @classmethod
    def load(cls, path: str | Path = "emoji") -> "Pipeline":
        """From a weights folder, a run folder, a .safetensors file, or the name of shipped weights."""
        return cls(weights.load(path))

    def words_beyond(self, prompt: str) -> bool:
        """Whether the prompt has more words than the model reads; the rest of them is left out."""
        return len(self.words.tokens(prompt, self.length + 1)) > self.length

    def encode(self, prompt: str) -> Any:
        """The prompt's condition, batch 1. Raises MlxflowError for one in which there is no word."""
        if prompt not in self.conditions:
            check_prompt(prompt)
            if not self.words.tokens(prompt, 1):
                raise MlxflowError(f"There is no English word in the prompt '{prompt[:60]}': "
                                   "the model knows English words and emoji.")
            if len(self.conditions) >= 1000:
                self.conditions.clear()
            self.conditions[prompt] = self._encode(prompt)
        return self.conditions[prompt]

    def _encode(self, prompt: str) -> Any:
        vectors, mask = self.words.encode_batch([prompt], self.length)
        condition = self.model.network.encode(mx.array(vectors), mx.array(mask))
        mx.eval(condition)
        return condition

    def stream(self, requests: Sequence[Request], settings: Settings | None = None, *,
               batch: int = 1) -> Iterator[Frame]:
        """Draws the requests in order, `batch` at a time; yields a Frame of each picture after each step. Without
        settings by the model's own."""
        settings = settings or settings_for(self.model.config)
        check_settings(settings, self.model.config)
        negative = self.encode(settings.negative) if settings.negative else self.null
        size, channels = self.model.image_size, self.model.network.unet.config.channels
        for request in requests:
            self.encode(request.prompt)
        for start in range(0, len(requests), batch):
            now = requests[start : start + batch]
            noise = mx.concatenate([request.noise((size, size, channels)) for request in now])
            condition = guide.join(*(self.encode(request.prompt) for request in now))
            own = {"key": mx.random.split(mx.random.key(now[0].seed))[1]} if settings.solver == "sde" else {}
            for state in states(self.velocity, condition, negative, noise, settings.steps, settings.solver,
                                settings.guidance, guide_until=settings.guide_until, path=self.path, last=self.last,
                                **own):
                pixels = unpremultiply(np.array(state.x1_estimate.astype(mx.float32)))
                x = np.array(state.x.astype(mx.float32))
                for i, picture in enumerate(pixels):
                    yield Frame(start + i, state.t, state.nfe, picture, x[i])

    def generate(self, prompts: str | Sequence[str], *, n: int = 1, seed: int = 0, batch: int = 1,
                 **settings) -> list[Image.Image]:
        """n pictures of each prompt, RGBA; `settings` are the fields of Settings, by default the model's own."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        frames = self.stream(requests_for(prompts, n, seed), settings_for(self.model.config, **settings), batch=batch)
        return [Image.fromarray(frame.pixels) for frame in frames if frame.t == 1]


def generate(model: weights.Model, prompts: str | Sequence[str], **options) -> list[Image.Image]:
    """`Pipeline.generate` for one use of a model; keep a Pipeline for several."""
    return Pipeline(model).generate(prompts, **options)


def digest(file: Path) -> str:
    """SHA-256 of a weights file, as pictures name the weights that drew them."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
