// Keeping a picture: the clipboard and files.

/** The picture's file from the server, as `how` says (kind and size, or for): a Blob and its name. Throws an Error
    with a sentence. */
async function file(picture, how) {
  const query = new URLSearchParams({ ...picture, ...how, download: 1 });
  let answer;
  try {
    answer = await fetch(`/api/picture?${query}`);
  } catch {
    throw new Error("The server is not there.");
  }
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const name = /filename="(.+)"/.exec(answer.headers.get("Content-Disposition"))[1];
  return { blob: await answer.blob(), name };
}

/** kind: png, webp, svg, or slack for the file that Slack takes. Returns what happened, in a sentence. */
export async function download(picture, kind, size) {
  const { blob, name } = await file(picture, kind === "slack" ? { for: kind } : { kind, size });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  return `Saved ${name}`;
}

export async function copy(picture, size) {
  if (!navigator.clipboard?.write) throw new Error("Browsers copy pictures from localhost or HTTPS only: download it instead.");
  // Safari wants the promise itself: awaiting it first would use up the click.
  const blob = file(picture, { kind: "png", size }).then((made) => made.blob);
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
  return "Copied";
}
