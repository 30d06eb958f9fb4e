// A model that `audioset export --format onnx` wrote, in the browser: waveform in, scores out.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";

export const SAMPLE_RATE_HZ = 16000;
export const EXAMPLE_SAMPLES = 15600;
export const INPUT = "waveform";
export const OUTPUT = "scores";

const METADATA_FIELD = 14; // of ONNX's ModelProto
const EXAMPLES_AT_ONCE = 64; // half a minute at YAMNet's hop: what a run needs grows with them

// More threads would need a page that is isolated from other origins.
ort.env.wasm.numThreads = 1;

export class Model {
  /** Fetch a model, and read from the file itself what it is. */
  static async load(url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}; export a model first (see README.md)`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const metadata = readMetadata(bytes);
    if (!metadata.classes || !metadata.hop_s) throw new Error(`${url}: expected a classifier that takes waveforms`);
    const hop = Number(metadata.hop_s) * SAMPLE_RATE_HZ;
    if (Math.abs(hop - Math.round(hop)) > 1e-6) throw new Error(`${url}: expected a hop of whole samples`);
    return new Model(await ort.InferenceSession.create(bytes), metadata, Math.round(hop));
  }

  constructor(session, metadata, hop) {
    this.session = session;
    this.metadata = metadata;
    this.hop = hop;
    this.classes = JSON.parse(metadata.classes).map(([, name]) => name);
  }

  /** Scores of each example of a mono waveform at 16 kHz, one Float32Array a row. */
  async scores(waveform) {
    const rows = [];
    for (let first = 0; ; first += EXAMPLES_AT_ONCE * this.hop) {
      // Pieces begin where an example does and end where one ends, so they give the rows of the whole.
      const end = first + (EXAMPLES_AT_ONCE - 1) * this.hop + EXAMPLE_SAMPLES;
      rows.push(...(await this.#run(waveform.slice(first, end))));
      const left = waveform.length - (first + EXAMPLES_AT_ONCE * this.hop);
      if (end >= waveform.length || (this.metadata.pad !== "all" && left < EXAMPLE_SAMPLES)) return rows;
    }
  }

  async #run(samples) {
    const feeds = { [INPUT]: new ort.Tensor("float32", samples, [samples.length]) };
    const { [OUTPUT]: found } = await this.session.run(feeds, [OUTPUT]);
    const [count, width] = found.dims;
    return Array.from({ length: count }, (_, row) => found.data.slice(row * width, (row + 1) * width));
  }

  /** The classes with the highest mean score, best first. */
  top(rows, count) {
    const means = this.classes.map((name, at) => ({ name, score: rows.reduce((sum, row) => sum + row[at], 0) / rows.length }));
    return means.sort((one, other) => other.score - one.score).slice(0, count);
  }
}

/** What the file says of itself, as text by name. */
export function readMetadata(bytes) {
  const text = new TextDecoder();
  const found = {};
  for (const [number, value] of fields(bytes)) {
    if (number !== METADATA_FIELD) continue;
    const entry = Object.fromEntries(fields(value));
    found[text.decode(entry[1])] = text.decode(entry[2]);
  }
  return found;
}

/** Fields of a protocol-buffer message: number, and its integer or its bytes. */
function* fields(bytes) {
  let at = 0;
  const integer = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (!(byte & 128)) return value;
    }
  };
  while (at < bytes.length) {
    const tag = integer();
    const value = integer();
    if ((tag & 7) === 0) {
      yield [tag >> 3, value];
    } else if ((tag & 7) === 2) {
      yield [tag >> 3, bytes.subarray(at, at + value)];
      at += value;
    } else {
      throw new Error("not a file that `audioset export` wrote");
    }
  }
}
