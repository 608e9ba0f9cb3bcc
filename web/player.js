// A recording with F0 curves over its spectrogram: play, seek, zoom, pan, hover.
// createPlayer(root, data): `data` is what page.py's player_data() makes. No dependencies.
"use strict";

const NOTES = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];
const STEPS_PER_SEMITONE = 500; // of the 16-bit pitches; 0 is unvoiced
const MIN_SECONDS = 0.5; // the closest zoom
const MIN_SEMITONES = 6;

const hzOf = (midi) => 440 * 2 ** ((midi - 69) / 12);

function noteName(midi) {
  const nearest = Math.round(midi);
  const cents = Math.round((midi - nearest) * 100);
  const octave = Math.floor(nearest / 12) - 1;
  return `${NOTES[nearest % 12]}${octave} ${cents < 0 ? "−" : "+"}${Math.abs(cents)} cents`;
}

function clock(seconds) {
  const whole = Math.max(0, seconds);
  return `${Math.floor(whole / 60)}:${(whole % 60).toFixed(1).padStart(4, "0")}`;
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

function decodeCurve(curve) {
  const steps = new Uint16Array(bytesOf(curve.pitch).buffer);
  const midi = Float32Array.from(steps, (s) => (s ? s / STEPS_PER_SEMITONE : NaN));
  const confidence = curve.confidence ? bytesOf(curve.confidence) : null; // percent
  return { ...curve, midi, confidence, shown: true };
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function createPlayer(root, data) {
  const curves = data.curves.map(decodeCurve);
  const whole = { t0: 0, t1: data.duration, m0: data.midi_low, m1: data.midi_high };
  const view = { ...whole };
  const audio = element("audio", { src: data.audio, preload: "auto" });
  const image = new Image();
  const { stage, spectrogram, overlay, tip } = makeStage(root, data.title);
  const controls = makeControls();
  root.append(audio, stage, controls.bar);

  // --- geometry: pixels are CSS pixels of the stage
  const box = () => ({ w: stage.clientWidth, h: stage.clientHeight });
  const xOf = (t) => ((t - view.t0) / (view.t1 - view.t0)) * box().w;
  const yOf = (m) => (1 - (m - view.m0) / (view.m1 - view.m0)) * box().h;
  const timeAt = (x) => view.t0 + (x / box().w) * (view.t1 - view.t0);
  const midiAt = (y) => view.m0 + (1 - y / box().h) * (view.m1 - view.m0);

  function setView(t0, seconds, m0 = view.m0, semitones = view.m1 - view.m0) {
    const length = Math.min(Math.max(seconds, MIN_SECONDS), whole.t1);
    const height = Math.min(Math.max(semitones, MIN_SEMITONES), whole.m1 - whole.m0);
    view.t0 = Math.min(Math.max(t0, 0), whole.t1 - length);
    view.t1 = view.t0 + length;
    view.m0 = Math.min(Math.max(m0, whole.m0), whole.m1 - height);
    view.m1 = view.m0 + height;
    draw();
  }

  function zoomTime(factor, at = (view.t0 + view.t1) / 2) {
    setView(at - (at - view.t0) * factor, (view.t1 - view.t0) * factor);
  }

  function zoomPitch(factor, at) {
    const low = at - (at - view.m0) * factor;
    setView(view.t0, view.t1 - view.t0, low, (view.m1 - view.m0) * factor);
  }

  // --- drawing
  function fit(canvas) {
    const { w, h } = box();
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, w, h);
    return pen;
  }

  function draw() {
    if (!stage.clientWidth) return; // hidden
    const pen = fit(spectrogram);
    if (image.complete && image.naturalWidth) {
      const perSecond = image.naturalWidth / whole.t1;
      const perSemitone = image.naturalHeight / (whole.m1 - whole.m0);
      pen.drawImage(
        image,
        view.t0 * perSecond, (whole.m1 - view.m1) * perSemitone,
        (view.t1 - view.t0) * perSecond, (view.m1 - view.m0) * perSemitone,
        0, 0, box().w, box().h,
      );
    }
    drawOverlay();
  }

  function drawOverlay() {
    const pen = fit(overlay);
    const style = getComputedStyle(root);
    for (const curve of curves) {
      if (curve.shown) drawCurve(pen, curve, style.getPropertyValue(`--curve-${curve.role}`));
    }
    drawGrid(pen, style);
    pen.fillStyle = style.getPropertyValue("--cursor");
    pen.fillRect(xOf(audio.currentTime) - 1, 0, 2, box().h);
    stage.dataset.cursor = xOf(audio.currentTime).toFixed(1); // for tests
  }

  function drawGrid(pen, style) {
    pen.font = "11px system-ui, sans-serif";
    pen.strokeStyle = style.getPropertyValue("--grid");
    pen.fillStyle = style.getPropertyValue("--grid-text");
    const write = (text, x, y) => { // on a halo: the picture below may be of any brightness
      pen.save();
      pen.strokeStyle = style.getPropertyValue("--back");
      pen.lineWidth = 3;
      pen.strokeText(text, x, y);
      pen.restore();
      pen.fillText(text, x, y);
    };
    pen.lineWidth = 1;
    for (let m = Math.ceil(view.m0 / 12) * 12; m <= view.m1; m += 12) {
      pen.strokeRect(-1, yOf(m), box().w + 2, 0);
      if (yOf(m) > 14 && yOf(m) < box().h - 16) write(`C${m / 12 - 1}`, 4, yOf(m) - 3);
    }
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600].find(
      (s) => (s / (view.t1 - view.t0)) * box().w > 70) || 1800;
    for (let t = Math.ceil(view.t0 / step) * step; t < view.t1; t += step) {
      write(step < 1 ? clock(t) : clock(t).split(".")[0], xOf(t) + 3, box().h - 4);
      pen.fillRect(xOf(t), box().h - 6, 1, 6);
    }
  }

  function drawCurve(pen, curve, colour) {
    const { hop, start } = curve;
    const first = Math.max(0, Math.floor((view.t0 - start) / hop));
    const last = Math.min(curve.midi.length, Math.ceil((view.t1 - start) / hop) + 1);
    if (curve.confidence) shadeConfidence(pen, curve, colour, first, last);
    pen.strokeStyle = colour;
    pen.lineWidth = curve.role === "reference" ? 5 : 2;
    pen.lineJoin = "round";
    pen.beginPath();
    let down = false;
    for (let i = first; i < last; i++) {
      const m = curve.midi[i];
      if (Number.isNaN(m)) { down = false; continue; }
      const x = xOf(start + i * hop), y = yOf(m);
      if (down) pen.lineTo(x, y); else { pen.moveTo(x, y); pen.lineTo(x + 0.5, y); }
      down = true;
    }
    pen.stroke();
  }

  // A band along the bottom, the higher the surer that the melody sounds.
  function shadeConfidence(pen, curve, colour, first, last) {
    const height = Math.min(36, box().h / 6);
    const stride = Math.max(1, Math.floor((last - first) / box().w));
    pen.globalAlpha = 0.35;
    pen.fillStyle = colour;
    for (let i = first; i < last; i += stride) {
      const x = xOf(curve.start + i * curve.hop);
      const h = (curve.confidence[i] / 100) * height;
      pen.fillRect(x, box().h - h, Math.max(1, xOf(curve.start + (i + stride) * curve.hop) - x), h);
    }
    pen.globalAlpha = 1;
  }

  // --- playing
  function seek(t) {
    audio.currentTime = Math.min(Math.max(t, 0), whole.t1);
    follow();
    tick();
  }

  function follow() { // keep the cursor in view while zoomed in
    const length = view.t1 - view.t0;
    const t = audio.currentTime;
    if (t < view.t0 || t > view.t1) setView(t - length * 0.1, length);
  }

  function tick() {
    controls.time.textContent = `${clock(audio.currentTime)} / ${clock(whole.t1)}`;
    stage.setAttribute("aria-valuenow", audio.currentTime.toFixed(2));
    stage.setAttribute("aria-valuetext", clock(audio.currentTime));
    drawOverlay();
  }

  function loop() {
    if (audio.paused) return;
    follow();
    tick();
    requestAnimationFrame(loop);
  }

  let mixer = null; // two channels are the recording and the melody
  function startMixer() {
    if (mixer || !data.two_channels || !window.AudioContext) return;
    const context = new AudioContext();
    const splitter = context.createChannelSplitter(2);
    const gains = [context.createGain(), context.createGain()];
    context.createMediaElementSource(audio).connect(splitter);
    gains.forEach((gain, channel) => {
      splitter.connect(gain, channel);
      gain.connect(context.destination);
    });
    mixer = { context, gains };
    setBalance();
  }

  function setBalance() {
    if (!mixer) return;
    const share = Number(controls.balance.value) / 100; // 0 recording, 1 melody
    mixer.gains[0].gain.value = Math.min(1, 2 * (1 - share));
    mixer.gains[1].gain.value = Math.min(1, 2 * share);
  }

  async function toggle() {
    if (!audio.paused) { audio.pause(); return; }
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    startMixer();
    if (mixer) await mixer.context.resume();
    await audio.play();
  }

  audio.addEventListener("play", () => { setPlaying(true); loop(); });
  audio.addEventListener("pause", () => { setPlaying(false); tick(); });
  audio.addEventListener("seeked", tick);
  function setPlaying(on) {
    controls.play.textContent = on ? "❚❚ Pause" : "▶ Play";
    controls.play.setAttribute("aria-pressed", on);
  }

  // --- hover
  function hover(x, y) {
    const t = timeAt(x);
    const lines = [`${clock(t)}  ·  pointer ${hzOf(midiAt(y)).toFixed(0)} Hz`];
    for (const curve of curves.filter((c) => c.shown)) {
      const i = Math.round((t - curve.start) / curve.hop);
      const m = curve.midi[i];
      if (m === undefined) continue;
      const sure = curve.confidence ? `, ${curve.confidence[i]} % sure` : "";
      lines.push(Number.isNaN(m) ? `${curve.name}: no melody${sure}`
        : `${curve.name}: ${noteName(m)}, ${hzOf(m).toFixed(1)} Hz${sure}`);
    }
    tip.replaceChildren(...lines.map((line) => element("div", {}, line)));
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(x + 14, box().w - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y > box().h / 2 ? y - tip.offsetHeight - 10 : y + 14}px`;
  }

  // --- pointers: click seeks, drag pans, two fingers zoom
  const pointers = new Map();
  let moved = false;
  stage.addEventListener("pointerdown", (e) => {
    stage.setPointerCapture(e.pointerId);
    pointers.set(e.pointerId, [e.offsetX, e.offsetY]);
    if (pointers.size === 1) moved = false;
  });
  stage.addEventListener("pointermove", (e) => {
    const before = pointers.get(e.pointerId);
    if (!before) { hover(e.offsetX, e.offsetY); return; }
    const now = [e.offsetX, e.offsetY];
    if (pointers.size === 1 && (moved || Math.hypot(now[0] - before[0], now[1] - before[1]) > 4)) {
      moved = true;
      tip.hidden = true;
      const perPixel = (view.t1 - view.t0) / box().w;
      const semitonesPerPixel = (view.m1 - view.m0) / box().h;
      setView(view.t0 - (now[0] - before[0]) * perPixel, view.t1 - view.t0,
        view.m0 + (now[1] - before[1]) * semitonesPerPixel);
    } else if (pointers.size === 2) {
      moved = true;
      const other = [...pointers].find(([id]) => id !== e.pointerId)[1];
      const spread = (p) => Math.max(20, Math.abs(p[0] - other[0]));
      zoomTime(spread(before) / spread(now), timeAt((now[0] + other[0]) / 2));
    } else return;
    pointers.set(e.pointerId, now);
  });
  const lift = (e) => {
    if (pointers.delete(e.pointerId) && !moved && e.type === "pointerup") seek(timeAt(e.offsetX));
  };
  stage.addEventListener("pointerup", lift);
  stage.addEventListener("pointercancel", lift);
  stage.addEventListener("pointerleave", () => { tip.hidden = true; });
  stage.addEventListener("wheel", (e) => {
    if (document.activeElement !== stage && !e.ctrlKey) return; // the page scrolls
    e.preventDefault();
    if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) {
      setView(view.t0 + (e.deltaX / box().w) * (view.t1 - view.t0), view.t1 - view.t0);
    } else if (e.shiftKey) zoomPitch(1.002 ** e.deltaY, midiAt(e.offsetY));
    else zoomTime(1.002 ** e.deltaY, timeAt(e.offsetX));
  }, { passive: false });
  stage.addEventListener("keydown", (e) => {
    const actions = {
      " ": toggle,
      ArrowLeft: () => seek(audio.currentTime - 1),
      ArrowRight: () => seek(audio.currentTime + 1),
      Home: () => seek(0),
      End: () => seek(whole.t1),
      "+": () => zoomTime(0.5, audio.currentTime),
      "-": () => zoomTime(2, audio.currentTime),
      0: () => setView(0, whole.t1, whole.m0, whole.m1 - whole.m0),
    };
    if (e.ctrlKey || e.metaKey || e.altKey || !actions[e.key]) return;
    e.preventDefault();
    actions[e.key]();
  });

  // --- building
  function makeStage(parent, title) {
    const spectrogram = element("canvas", { class: "spectrogram", "aria-hidden": "true" });
    const overlay = element("canvas", { class: "overlay", "aria-hidden": "true" });
    const tip = element("div", { class: "tip", role: "status" });
    tip.hidden = true;
    const stage = element("div", {
      class: "stage", tabindex: "0", role: "slider", "aria-label": `Position in ${title}`,
      "aria-valuemin": "0", "aria-valuemax": String(data.duration), "aria-valuenow": "0",
    }, spectrogram, overlay, tip);
    parent.classList.add("player");
    return { stage, spectrogram, overlay, tip };
  }

  function makeControls() {
    const button = (label, name, action) => {
      const node = element("button", { type: "button", "aria-label": name }, label);
      node.addEventListener("click", action);
      return node;
    };
    const play = button("▶ Play", "Play or pause", toggle);
    play.className = "play";
    const time = element("output", { class: "time" });
    const balance = element("input", {
      type: "range", min: "0", max: "100", value: "50", "aria-label": "Recording or melody",
    });
    balance.addEventListener("input", setBalance);
    const bar = element("div", { class: "controls" }, play, time,
      button("+", "Zoom in", () => zoomTime(0.5, audio.currentTime)),
      button("−", "Zoom out", () => zoomTime(2, audio.currentTime)),
      button("All", "Show all", () => setView(0, whole.t1, whole.m0, whole.m1 - whole.m0)));
    if (data.two_channels) {
      bar.append(element("label", { class: "balance" }, "recording", balance, "melody"));
    }
    for (const curve of curves) {
      const box = element("input", { type: "checkbox" });
      box.checked = true;
      box.addEventListener("change", () => { curve.shown = box.checked; drawOverlay(); });
      bar.append(element("label", { class: `key ${curve.role}` }, box, element("i"), curve.name));
    }
    return { bar, play, time, balance };
  }

  image.addEventListener("load", draw);
  image.src = data.image;
  new ResizeObserver(draw).observe(stage);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  tick();
}
