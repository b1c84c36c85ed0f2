// What was drawn before, kept by the browser alone.

const KEY = "history", MOST = 40;
const section = document.getElementById("history");
const list = section.querySelector("ol");
let entries = [];
let onPick = () => {};

/** Shows what is kept; `pick` is called with the entry that is clicked. */
export function open(pick) {
  onPick = pick;
  try {
    entries = JSON.parse(localStorage.getItem(KEY)) ?? [];
  } catch {
    entries = [];
  }
  render();
}

/** Keeps {prompt, seed, steps, guidance, choice, png}; the newest gives way to it if it was only on the way to it. */
export function keep(entry) {
  const same = (old) => ["prompt", "seed", "steps", "guidance"].every((name) => old[name] === entry[name]);
  const onTheWay = (old, i) => i === 0 && old.seed === entry.seed
    && (entry.prompt.startsWith(old.prompt) || old.prompt.startsWith(entry.prompt));
  entries = [entry, ...entries.filter((old, i) => !same(old) && !onTheWay(old, i))].slice(0, MOST);
  save();
}

export function forget() {
  entries = [];
  save();
}

function save() {
  try {
    localStorage.setItem(KEY, JSON.stringify(entries));
  } catch {
    // The browser keeps nothing for this page: the list lasts as long as the page.
  }
  render();
}

function render() {
  section.hidden = entries.length === 0;
  list.replaceChildren(...entries.map((entry) => {
    const button = document.createElement("button");
    const picture = new Image(48, 48);
    picture.src = `data:image/png;base64,${entry.png}`;
    picture.alt = "";
    const words = document.createElement("span");
    words.textContent = button.title = entry.prompt;
    button.append(picture, words);
    button.addEventListener("click", () => onPick(entry));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}
