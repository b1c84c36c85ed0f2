// The four candidates: what they show, and which one is chosen.

const group = document.getElementById("candidates");
const COUNT = 4;

export const tiles = Array.from({ length: COUNT }, (_, i) => {
  const tile = document.createElement("button");
  tile.className = "tile";
  tile.setAttribute("role", "radio");
  tile.dataset.stage = "none";
  const glow = image("glow"), shown = image("shown");
  const number = document.createElement("span");
  number.className = "number";
  number.textContent = i + 1;
  const progress = document.createElement("span");
  progress.className = "progress";
  tile.append(glow, shown, ghost(i), number, progress);
  tile.title = "Click to choose, double-click to copy";
  tile.addEventListener("click", () => choose(i));
  group.append(tile);
  return { tile, glow, shown };
});
let chosen = 0;
let told = () => {};

function image(name) {
  const made = new Image();
  made.className = name;
  made.alt = "";
  made.draggable = name === "shown";
  return made;
}

/** The outline that stands there before the first picture. */
function ghost(i) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#g-${i + 1}`);
  made.classList.add("ghost");
  made.append(use);
  return made;
}

/** Calls back with the number of the picture that is chosen, whenever another one is. */
export function onChoice(callback) {
  told = callback;
}

export function choose(i, focus = false) {
  chosen = (i + COUNT) % COUNT;
  tiles.forEach(({ tile }, j) => {
    tile.setAttribute("aria-checked", j === chosen);
    tile.tabIndex = j === chosen ? 0 : -1;
  });
  if (focus) tiles[chosen].tile.focus();
  told(chosen);
}

export const choice = () => chosen;

/** The PNG in base64 that the chosen one shows now. */
export const chosenPng = () => tiles[chosen].shown.src.replace("data:image/png;base64,", "");

/** The pictures of before fade until their successors come; without words there are none. */
export function begin(words) {
  tiles.forEach(({ tile }, i) => {
    if (!words) tile.dataset.stage = "none";
    tile.toggleAttribute("data-busy", Boolean(words));
    tile.style.setProperty("--done", 0);
    tile.setAttribute("aria-label", words ? `${i + 1}: ${words}` : `${i + 1}`);
  });
}

export function show({ picture, stage, t, png }) {
  const { tile, glow, shown } = tiles[picture];
  shown.src = `data:image/png;base64,${png}`;
  if (t === 1) glow.src = shown.src;
  tile.dataset.stage = stage;
  tile.style.setProperty("--done", stage === "draft" ? 0.2 * t : 0.2 + 0.8 * t);
  if (stage === "final" && t === 1) tile.removeAttribute("data-busy");
}

/** Ends the waiting: nothing more will come. */
export function rest() {
  tiles.forEach(({ tile }) => tile.removeAttribute("data-busy"));
}

choose(0);
