// The page: words and settings in, pictures out; the address holds them, so that a reload or a link shows the same.

import { draw, stop } from "./draw.js";
import { copy, download } from "./save.js";
import * as past from "./history.js";
import * as candidates from "./tiles.js";

const $ = (id) => document.getElementById(id);
const prompt = $("prompt"), seed = $("seed"), lock = $("lock");
const sliders = [$("guidance"), $("steps")];
const IDEAS = ["smiling cat", "red heart", "robot", "slice of pizza", "blue fish", "snowman", "rocket"];
const about = fetch("/api/about").then((answer) => answer.json());
let drawn = null;
// Keys that come quicker than drafts would end each of them before it is seen. So one that is on its way may end, and
// the newest words wait for it, when nothing new was shown for so many milliseconds.
const PATIENCE = 300;
let underway = false, held = false, shownAt = -Infinity;

const locked = () => lock.getAttribute("aria-pressed") === "true";
const words = () => prompt.value.trim();
const anySeed = () => crypto.getRandomValues(new Uint32Array(1))[0];
const asked = () => ({ prompt: words(), seed: Number(seed.value), steps: Number($("steps").value),
  guidance: Number($("guidance").value) });

/** The one chosen, as the server names it. */
function picture() {
  const { seed: first, ...rest } = asked();
  return { ...rest, seed: first + candidates.choice() };
}

// Drawing.

function update() {
  const now = asked(), key = JSON.stringify(now);
  if (key === drawn) return;
  if (now.prompt && underway && performance.now() - shownAt > PATIENCE) {
    held = true;
    return describe();
  }
  held = false;
  if (!now.prompt && !locked()) seed.value = anySeed();
  drawn = now.prompt ? key : null;
  describe();
  candidates.begin(now.prompt);
  underway = Boolean(now.prompt);
  if (!now.prompt) {
    stop();
    say("");
    return;
  }
  say("Drawing\u2026");
  const begun = performance.now(), first = {};
  draw(now, {
    picture(event) {
      candidates.show(event);
      if (event.t < 1) return;
      shownAt = performance.now();
      first[event.stage] ??= shownAt - begun;
      if (event.stage === "draft" && event.picture === 0) say(`First look after ${seconds(first.draft, 2)}. Refining\u2026`);
      if (event.stage === "final" && event.picture === 0) past.keep({ ...now, choice: 1, png: event.png });
      seen();
    },
    done() {
      candidates.rest();
      say(first.draft ? `First look after ${seconds(first.draft, 2)}, all done after ${seconds(performance.now() - begun, 1)}` : "From memory");
      $("spoken").textContent = `Four pictures of ${now.prompt}`;
    },
    waiting(sentence) {
      say(sentence, true);
      seen();
    },
    problem(sentence) {
      candidates.rest();
      say(sentence, true);
      seen();
    },
  });
}

/** The draft has come, or will not come soon: the newest words need not wait. */
function seen() {
  underway = false;
  if (held) update();
}

function others() {
  if (!words()) return prompt.focus();
  if (locked()) return toast("The seed is locked: L unlocks it");
  seed.value = anySeed();
  update();
}

// What the page says.

const seconds = (milliseconds, digits) => `${(milliseconds / 1000).toFixed(digits)} s`;

function say(sentence, wrong = false) {
  $("state").textContent = sentence;
  $("state").classList.toggle("wrong", wrong);
  if (wrong) $("spoken").textContent = sentence;
}

let toastTimer;
function toast(sentence) {
  $("toast").textContent = sentence;
  $("toast").classList.add("up");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => $("toast").classList.remove("up"), 2200);
}

/** Everything that shows what is asked for: the address, the numbers, the command. */
function describe() {
  for (const slider of sliders) {
    $(`${slider.id}-shown`).textContent = slider.id === "guidance" ? Number(slider.value).toFixed(1) : slider.value;
    slider.style.setProperty("--fill", `${(100 * (slider.value - slider.min)) / (slider.max - slider.min)}%`);
  }
  $("lock-says").textContent = locked() ? "the same four every time" : "Enter draws four others";
  const { prompt: text, ...numbers } = picture();
  const quoted = `'${text.replaceAll("'", "'\\''")}'`;
  $("shell").firstChild.textContent = text
    && `mlxflow generate ${quoted} --seed ${numbers.seed} --steps ${numbers.steps} --guidance ${numbers.guidance}`;
  document.title = text ? `${text} \u00b7 mlxflow` : "mlxflow";
  $("ideas").hidden = Boolean(text);
  for (const button of $("save").querySelectorAll("button")) button.disabled = !text || button.dataset.missing;
  const state = new URLSearchParams({ ...asked(), ...(locked() && { locked: 1 }),
    ...(candidates.choice() && { choice: candidates.choice() + 1 }) });
  history.replaceState(null, "", text ? `#${state}` : location.pathname);
}

function setLock(to) {
  lock.setAttribute("aria-pressed", to);
  describe();
}

// Keeping.

async function save(kind) {
  if (!words()) return;
  const size = document.querySelector("#sizes :checked").value;
  try {
    toast(await (kind === "copy" ? copy(picture(), size) : download(picture(), kind, size)));
    past.keep({ ...asked(), choice: candidates.choice() + 1, png: candidates.chosenPng() });
  } catch (error) {
    toast(error.message);
  }
}

// The address, and what was drawn before.

function restore(state) {
  prompt.value = state.prompt ?? "";
  for (const slider of sliders) if (state[slider.id] !== undefined) slider.value = state[slider.id];
  seed.value = /^\d{1,15}$/.test(state.seed) ? state.seed : anySeed();
  if (state.locked !== undefined) setLock(Boolean(Number(state.locked)));
  candidates.choose((Number(state.choice) || 1) - 1);
  update();
}

const fromAddress = () => restore(Object.fromEntries(new URLSearchParams(location.hash.slice(1))));

// Wiring.

prompt.addEventListener("input", update);
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  others();
});
let sliding;
for (const slider of sliders) {
  slider.addEventListener("input", () => {
    describe();
    clearTimeout(sliding);
    sliding = setTimeout(update, 80);
  });
}
seed.addEventListener("input", () => {
  seed.value = seed.value.replace(/\D/g, "").slice(0, 15);
  if (seed.value) {
    setLock(true);
    update();
  }
});
seed.addEventListener("blur", () => {
  seed.value ||= anySeed();
  update();
});
lock.addEventListener("click", () => setLock(!locked()));
candidates.onChoice(() => drawn && describe());
$("save").addEventListener("click", (event) => {
  const kind = event.target.closest("button")?.dataset.save;
  if (kind) save(kind);
});
$("candidates").addEventListener("dblclick", () => save("copy"));
$("forget").addEventListener("click", past.forget);
$("shell").querySelector("button").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("shell").textContent.trim());
    toast("Copied the command");
  } catch {
    toast("The browser does not let this page copy");
  }
});
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).colorScheme === "dark"
    || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  localStorage.setItem("theme", (root.dataset.theme = dark ? "light" : "dark"));
});
$("show-keys").addEventListener("click", () => $("keys").showModal());
addEventListener("hashchange", fromAddress);

// Keys. In the words they are letters; with a picture in focus they are commands; elsewhere they go to the words.

const COMMANDS = { c: () => save("copy"), Enter: () => save("copy"), p: () => save("png"), w: () => save("webp"),
  s: () => save("svg"), k: () => save("slack"), n: others, l: () => lock.click(), "?": () => $("keys").showModal(),
  "/": () => prompt.focus(), Escape: () => prompt.focus(), ArrowUp: () => prompt.focus(),
  ArrowLeft: () => candidates.choose(candidates.choice() - 1, true),
  ArrowRight: () => candidates.choose(candidates.choice() + 1, true) };

addEventListener("keydown", (event) => {
  const { key, code, target } = event, name = key.length === 1 ? key.toLowerCase() : key;
  if (event.ctrlKey || event.metaKey || event.isComposing || $("keys").open) return;
  const digit = /^(?:Digit|Numpad)([1-4])$/.exec(code)?.[1];
  const onPicture = target.closest?.(".tile");
  const typing = target.matches?.("input[type=text]");
  if (digit && (event.altKey || onPicture)) candidates.choose(digit - 1, !typing);
  else if (event.altKey) return;
  else if (target === prompt && (key === "Escape" || key === "ArrowDown")) candidates.choose(candidates.choice(), true);
  else if (onPicture && name in COMMANDS) COMMANDS[name]();
  else if (typing) return;
  else if (key === "?" || key === "/") COMMANDS[key]();
  else if (key.length === 1 && key !== " " && !target.matches?.("input")) return prompt.focus();
  else return;
  event.preventDefault();
});

for (const idea of IDEAS) {
  const button = document.createElement("button");
  button.textContent = idea;
  button.addEventListener("click", () => {
    prompt.value = idea;
    prompt.focus();
    update();
  });
  $("ideas").append(button);
}

past.open(restore);
const known = await about;
$("model").textContent = known.model;
$("steps").max = known.max_steps;
$("guidance").closest(".control").hidden = !known.max_guidance;
if (!known.svg) {
  const button = document.querySelector("[data-save=svg]");
  button.dataset.missing = 1;
  button.title = "SVG needs vtracer on the server: pip install 'mlxflow[svg]'";
}
restore({ steps: known.steps, guidance: known.guidance, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) });
