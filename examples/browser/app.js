// The page: a recording or the microphone in, the classes that score highest out.

import { decode, listen } from "./audio.js";
import { EXAMPLE_SAMPLES, Model, SAMPLE_RATE_HZ } from "./model.js";

const SHOWN = 10;
const page = Object.fromEntries(["drop", "file", "microphone", "status", "results"].map((id) => [id, document.getElementById(id)]));
const url = new URLSearchParams(location.search).get("model") ?? "mini.onnx";

function say(text, failed = false) {
  page.status.textContent = text;
  page.status.classList.toggle("failed", failed);
}

function show(classes) {
  page.results.replaceChildren(
    ...classes.map(({ name, score }) => {
      const [item, label, track, bar, number] = ["li", "span", "span", "div", "span"].map((tag) => document.createElement(tag));
      label.textContent = name;
      bar.className = "bar";
      bar.style.width = `${100 * score}%`;
      track.append(bar);
      number.className = "score";
      number.textContent = score.toFixed(2);
      item.append(label, track, number);
      return item;
    }),
  );
}

/** Do something that may fail, and say so if it does. */
async function attempt(doing, work) {
  try {
    say(`${doing} …`);
    await work();
  } catch (error) {
    say(`${doing}: ${error.message}`, true);
  }
}

async function name(model, file) {
  page.results.replaceChildren();
  await attempt(`Reading ${file.name}`, async () => {
    const waveform = await decode(file);
    const began = performance.now();
    const rows = await model.scores(waveform);
    if (rows.length === 0) throw new Error("no sound in it");
    const took = (performance.now() - began) / 1000;
    show(model.top(rows, SHOWN));
    say(`${file.name}: ${(waveform.length / SAMPLE_RATE_HZ).toFixed(1)} s of sound in ${took.toFixed(2)} s`);
  });
}

/** The newest example of what is heard, named again after each hop. */
function follower(model) {
  const newest = new Float32Array(EXAMPLE_SAMPLES);
  let since = 0;
  let busy = false;
  return async (samples) => {
    newest.copyWithin(0, samples.length);
    newest.set(samples, EXAMPLE_SAMPLES - samples.length);
    since += samples.length;
    if (busy || since < model.hop) return;
    since = 0;
    busy = true;
    try {
      show(model.top(await model.scores(newest), SHOWN));
    } catch (error) {
      say(error.message, true);
    } finally {
      busy = false;
    }
  };
}

async function main() {
  const model = await Model.load(url);
  let stop = null;
  page.file.addEventListener("change", () => page.file.files.length && name(model, page.file.files[0]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    page.drop.addEventListener(kind, (event) => {
      event.preventDefault();
      page.drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) name(model, event.dataTransfer.files[0]);
    });
  }
  page.microphone.addEventListener("click", () =>
    attempt(stop ? "Stopping" : "Listening", async () => {
      if (stop) {
        await stop();
        stop = null;
        say("Stopped.");
      } else {
        page.results.replaceChildren();
        stop = await listen(follower(model));
      }
      page.microphone.textContent = stop ? "Stop" : "Listen to the microphone";
    }),
  );
  page.microphone.disabled = false;
  say(`Ready: ${model.metadata.model}, ${model.classes.length} classes.`);
}

main().catch((error) => say(error.message, true));
