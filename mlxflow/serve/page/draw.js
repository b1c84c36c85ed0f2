// Asks the server for pictures. A newer request ends the older one, here and on the server.

const visitor = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
let current = null;
// Requests go over several connections and may overtake each other: the server is told which is the newest.
let turn = 0;

/**
 * Draws, and tells `on` about it: picture({picture, stage, t, png}), done(), waiting(sentence) before another try,
 * problem(sentence) when there is none. Nothing is told any more once `draw` or `stop` is called again.
 */
export async function draw(asked, on) {
  stop();
  const { signal } = (current = new AbortController());
  for (let tries = 0; !signal.aborted; tries++) {
    let seconds;
    try {
      seconds = await once(asked, on, signal);
    } catch {
      if (signal.aborted) return;
      seconds = Math.min(0.5 * 2 ** tries, 4);
      on.waiting("The server is not there. Trying again\u2026");
    }
    if (!seconds) return;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

export function stop() {
  current?.abort();
}

/** One try: seconds to wait before the next, or undefined. Throws when the server goes away. */
async function once(asked, on, signal) {
  const answer = await fetch("/api/draw", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...asked, visitor, turn: ++turn }),
    signal,
  });
  if (answer.status === 429) {
    const seconds = Math.min(Number(answer.headers.get("Retry-After")) || 1, 5);
    on.waiting(`The server is busy. Trying again in ${seconds} s\u2026`);
    return seconds;
  }
  if (!answer.ok) return on.problem((await answer.json()).error.message);
  for await (const event of lines(answer.body)) {
    if (signal.aborted) return;
    if (event.png) on.picture(event);
    else if (event.done) return on.done();
    else if (event.error.code === "stopping") break;
    else return event.error.code === "cancelled" ? undefined : on.problem(event.error.message);
  }
  throw new Error("The answer broke off.");
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", part; !(part = await reader.read()).done; ) {
    const whole = (rest + part.value).split("\n");
    rest = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
}
