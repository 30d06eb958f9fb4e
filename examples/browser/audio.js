// Sound as the model takes it: mono, 16 kHz. The browser decodes and resamples.

import { SAMPLE_RATE_HZ } from "./model.js";

/** The waveform of a recording in any format that the browser knows; channels are averaged. */
export async function decode(file) {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE_HZ);
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const waveform = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((sample, at) => (waveform[at] += sample / sound.numberOfChannels));
  }
  return waveform;
}

/** Hand the microphone's samples to `take`, a piece at a time; returns what ends it. */
export async function listen(take) {
  // Browsers clean voices up by default, and what they take away may be the sound in question.
  const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: raw });
  const context = new AudioContext({ sampleRate: SAMPLE_RATE_HZ });
  const stop = () => {
    stream.getTracks().forEach((track) => track.stop());
    return context.close();
  };
  try {
    await context.audioWorklet.addModule("recorder.js");
    const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    recorder.port.onmessage = ({ data }) => take(data);
    context.createMediaStreamSource(stream).connect(recorder);
  } catch (error) {
    await stop();
    throw error;
  }
  return stop;
}
