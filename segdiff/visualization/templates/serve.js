/* The served page: sends two images, then draws the mask at every threshold from the levels that the server gives once.

   A pixel's level is the number of thresholds that its probability reaches, so that the mask at thresholds[k] is where
   the level is above k: exactly what the server will say, but for the model's post-processing, which it is asked for
   when the threshold rests. */
"use strict";

(() => {
  const page = JSON.parse(document.getElementById("page").textContent);
  const find = (id) => document.getElementById(id);
  const drops = new Map([...document.querySelectorAll(".drop")].map((drop) => [drop.dataset.role, drop]));
  const images = { before: null, after: null }; // {image, name, url} that the server has
  const sending = { before: null, after: null }; // the request at work
  const slider = find("threshold");
  const several = page.classes.length > 2;
  const viewer = new SegdiffViewer(find("stage"));
  let shown = null; // the comparison, with its levels
  let asked = 0; // comparisons so far
  let settling = null; // of the decision that is asked for

  // ------------------------------------------------------------------------------------------------------ words

  const number = new Intl.NumberFormat("en");
  const percent = (fraction) => {
    const value = fraction * 100;
    return value > 0 && value < 0.01 ? "< 0.01 %" : `${value.toFixed(value < 10 ? 2 : 1)} %`;
  };
  const area = (value, unit) => {
    if (unit === "m2") return value >= 1e6 ? [(value / 1e6).toFixed(2), "km²"] : [number.format(Math.round(value)), "m²"];
    return value >= 1e6 ? [(value / 1e6).toFixed(2), "Mpx"] : [number.format(value), "px"];
  };
  const color = (index) => `rgb(${page.colors[index - 1].join(", ")})`;

  const complaints = { before: "", after: "", pair: "" }; // of either image, and of the two together

  function complain(line, of = "pair") {
    complaints[of] = line;
    const lines = Object.values(complaints).filter(Boolean);
    find("alert").textContent = lines.join("\n");
    find("alert").hidden = !lines.length;
  }

  function tell(line, busy = false) {
    find("status").textContent = line;
    find("status").classList.toggle("is-busy", busy);
  }

  async function ask(address, options) {
    let answer;
    try {
      answer = await fetch(address, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("the server does not answer; is segdiff serve still running?");
    }
    if (answer.ok) return answer;
    throw new Error((await answer.json().catch(() => null))?.error ?? `the server says ${answer.status}`);
  }

  const forget = (address) => fetch(address, { method: "DELETE", keepalive: true }).catch(() => {});

  // ----------------------------------------------------------------------------------------------------- images

  function paintDrop(role) {
    const drop = drops.get(role);
    const image = images[role];
    drop.classList.toggle("is-filled", Boolean(image));
    drop.querySelector(".what").textContent =
      image ? `${image.name}, ${image.width} × ${image.height}` : "Drop an image or a GeoTIFF, or choose one";
    drop.querySelector(".what").title = image?.name ?? "";
    const picture = drop.querySelector("img");
    picture.hidden = !image;
    if (image) picture.src = image.url;
    else picture.removeAttribute("src");
  }

  /** Sends a file; XMLHttpRequest, since fetch does not tell how much has gone. */
  function send(role, file) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const progress = drops.get(role).querySelector("progress");
      sending[role]?.abort();
      sending[role] = request;
      request.open("POST", `images?${new URLSearchParams({ role, name: file.name })}`);
      request.responseType = "json";
      request.upload.onprogress = (event) => { progress.value = event.loaded / Math.max(event.total, 1); };
      request.onload = () => {
        if (request.status === 201) resolve(request.response);
        else reject(new Error(request.response?.error ?? `the server says ${request.status}`));
      };
      request.onabort = () => resolve(null);
      request.onerror = () => reject(new Error("the server does not answer; is segdiff serve still running?"));
      request.onloadend = () => { progress.hidden = true; };
      progress.hidden = false;
      progress.removeAttribute("value");
      request.send(file);
    });
  }

  async function take(role, file) {
    const drop = drops.get(role);
    complain("");
    complain("", role);
    drop.classList.remove("is-wrong");
    if (images[role]) forget(`images/${images[role].image}`);
    images[role] = null;
    asked++; // whatever is being compared is no longer wanted
    find("result").inert = true; // it is of other images
    tell("");
    paintDrop(role);
    drop.querySelector(".what").textContent = file.name;
    try {
      if (file.size > page.megabytes * 1e6) {
        throw new Error(`${file.name}: has ${(file.size / 1e6).toFixed(1)} MB; this page takes ${page.megabytes} MB, `
          + "larger files go through segdiff predict");
      }
      const image = await send(role, file);
      if (!image) return; // another file was dropped meanwhile
      images[role] = { ...image, url: `images/${image.image}/picture.jpg` };
      paintDrop(role);
    } catch (error) {
      drop.classList.add("is-wrong");
      paintDrop(role);
      tell("");
      complain(error.message, role);
      return;
    }
    compare();
  }

  for (const [role, drop] of drops) {
    const input = drop.querySelector("input");
    input.addEventListener("change", () => {
      if (input.files.length) take(role, input.files[0]);
      input.value = ""; // the same file may be chosen again
    });
  }

  const roleAt = (event) => event.target.closest?.(".drop")?.dataset.role;

  document.addEventListener("dragover", (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    for (const [role, drop] of drops) drop.classList.toggle("is-over", role === roleAt(event));
  });
  document.addEventListener("dragleave", () => drops.forEach((drop) => drop.classList.remove("is-over")));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drops.forEach((drop) => drop.classList.remove("is-over"));
    const files = [...event.dataTransfer.files];
    if (files.length > 1) {
      take("before", files[0]);
      take("after", files[1]);
    } else if (files.length) {
      take(roleAt(event) ?? (images.before && !images.after ? "after" : "before"), files[0]);
    }
  });

  find("swap").addEventListener("click", () => {
    [images.before, images.after] = [images.after, images.before];
    complain("", "before");
    complain("", "after");
    drops.forEach((drop) => drop.classList.remove("is-wrong"));
    drops.forEach((drop, role) => paintDrop(role));
    find("result").inert = true;
    compare();
  });

  window.addEventListener("pagehide", (event) => {
    if (event.persisted) return; // it may be shown again
    if (shown) forget(`comparisons/${shown.comparison}`);
    for (const image of Object.values(images)) if (image) forget(`images/${image.image}`);
  });

  // ------------------------------------------------------------------------------------------------- comparison

  async function compare() {
    if (!images.before || !images.after) return;
    const request = ++asked;
    complain("");
    tell("Comparing …", true);
    const began = performance.now();
    try {
      const pair = new URLSearchParams({ before: images.before.image, after: images.after.image });
      const comparison = await (await ask(`comparisons?${pair}`, { method: "POST" })).json();
      if (request !== asked) return forget(`comparisons/${comparison.comparison}`);
      const levels = new Uint8Array(await (await ask(`comparisons/${comparison.comparison}/levels`)).arrayBuffer());
      if (request !== asked) return forget(`comparisons/${comparison.comparison}`);
      if (shown) forget(`comparisons/${shown.comparison}`);
      shown = prepare(comparison, levels);
      const sure = shown.confidence == null ? "" : `, confidence ${shown.confidence.toFixed(2)}`;
      tell(`Compared in ${((performance.now() - began) / 1000).toFixed(1)} s${sure}`);
      complain(shown.unsure ? "Nothing can be told of these two images: how they differ is unlike a change of one place." : "");
      present();
    } catch (error) {
      if (request !== asked) return;
      tell("");
      complain(error.message);
    }
  }

  function prepare(comparison, levels) {
    const width = Math.ceil(comparison.width / comparison.factor);
    const height = Math.ceil(comparison.height / comparison.factor);
    const size = width * height;
    const canvas = () => Object.assign(document.createElement("canvas"), { width, height });
    return {
      ...comparison,
      across: width,
      down: height,
      levels: levels.subarray(0, size),
      kinds: several ? levels.subarray(size, 2 * size) : null,
      possible: positive(levels.subarray(0, size)), // pixels that are change at some threshold
      mask: new Uint8Array(size),
      changed: new Uint32Array(0), // pixels that are change now
      canvases: { contour: canvas(), mask: canvas(), probability: canvas() },
      pixelsDrawn: new ImageData(width, height),
    };
  }

  /** The indices of what is not 0. */
  function positive(values) {
    const indices = new Uint32Array(values.length);
    let count = 0;
    for (let index = 0; index < values.length; index++) if (values[index]) indices[count++] = index;
    return indices.slice(0, count);
  }

  function present() {
    document.body.classList.add("has-result");
    find("intro").hidden = true;
    find("result").hidden = false;
    find("result").inert = false;
    slider.min = 0;
    slider.max = shown.thresholds.length - 1;
    slider.step = 1;
    const own = shown.thresholds.indexOf(page.threshold);
    find("own-threshold").replaceChildren(new Option("", own));
    slider.value = own;
    const classes = page.colors.map((_, index) => ({ name: page.classes[index + 1], color: color(index + 1) }));
    const { contour, mask, probability } = shown.canvases;
    viewer.show({
      before: images.before.url,
      after: images.after.url,
      layers: [
        { id: "probability", label: "Probability", key: "p", canvas: probability, on: false, dim: "dark",
          legend: [{ name: "probability 0 to 1", color: page.gradient }] },
        { id: "mask", label: "Mask", key: "m", canvas: mask, on: true, legend: classes },
        { id: "contour", label: "Contour", key: "c", canvas: contour, on: true, legend: classes },
      ],
    });
    paint(probability, (put) => {
      const colors = page.heat.map(rgba);
      const tops = shown.thresholds.map((threshold) => colors[Math.round(threshold * 255)]);
      for (const index of shown.possible) put[index] = tops[shown.levels[index] - 1];
    });
    drawLive();
    settle();
  }

  // ---------------------------------------------------------------------------------------------------- drawing

  /** A pixel of a canvas as one number, whatever the order of this machine's bytes. */
  function rgba([red, green, blue, alpha]) {
    return new Uint32Array(new Uint8ClampedArray([red, green, blue, alpha]).buffer)[0];
  }

  function paint(canvas, fill) {
    const pixels = new Uint32Array(shown.pixelsDrawn.data.buffer);
    pixels.fill(0);
    fill(pixels);
    canvas.getContext("2d").putImageData(shown.pixelsDrawn, 0, 0);
  }

  const FILLS = [0, ...page.colors.map((rgb) => rgba([...rgb, 90]))];
  const LINES = [0, ...page.colors.map((rgb) => rgba([...rgb, 255]))];
  const RIM = rgba([32, 32, 32, 140]);

  // most of an image does not change, so whatever is done again and again goes by the list of pixels that do

  function drawMask() {
    const { mask, changed, across, down, canvases } = shown;
    paint(canvases.mask, (put) => { for (const index of changed) put[index] = FILLS[mask[index]]; });
    const line = dilate(mask, changed, Math.max(2, Math.round(Math.max(across, down) / 400)));
    const rim = dilate(line.values, line.touched, 1);
    paint(canvases.contour, (put) => {
      for (const index of rim.touched) {
        if (!mask[index]) put[index] = line.values[index] ? LINES[line.values[index]] : RIM;
      }
    });
  }

  /** Each pixel the largest value within so many pixels of it, in a square; `touched` are those that are not 0. */
  function dilate(values, touched, reach) {
    const { across, down } = shown;
    const spread = (from, pixels, length, step) => {
      const to = new Uint8Array(from.length);
      const reached = [];
      for (const index of pixels) {
        const value = from[index];
        const at = step === 1 ? index % across : Math.floor(index / across);
        const first = Math.max(-reach, -at);
        const last = Math.min(reach, length - 1 - at);
        for (let offset = first, near = index + first * step; offset <= last; offset++, near += step) {
          if (!to[near]) reached.push(near);
          if (to[near] < value) to[near] = value;
        }
      }
      return { values: to, touched: reached };
    };
    const wide = spread(values, touched, across, 1);
    return spread(wide.values, wide.touched, down, across);
  }

  /** The number of regions of one class that touch by edges or corners. */
  function countObjects() {
    const { mask, changed, across, down } = shown;
    const seen = new Uint8Array(mask.length);
    const stack = [];
    let count = 0;
    for (const first of changed) {
      if (seen[first]) continue;
      count++;
      seen[first] = 1;
      stack.push(first);
      while (stack.length) {
        const index = stack.pop();
        const x = index % across;
        const y = (index - x) / across;
        for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, down - 1); row++) {
          for (let column = Math.max(x - 1, 0); column <= Math.min(x + 1, across - 1); column++) {
            const near = row * across + column;
            if (!seen[near] && mask[near] === mask[first]) {
              seen[near] = 1;
              stack.push(near);
            }
          }
        }
      }
    }
    return count;
  }

  // -------------------------------------------------------------------------------------------------- threshold

  const chosen = () => shown.thresholds[slider.value];

  function drawLive() {
    const above = Number(slider.value);
    const { levels, kinds, mask } = shown;
    mask.fill(0);
    shown.changed = shown.possible.filter((index) => levels[index] > above);
    for (const index of shown.changed) mask[index] = kinds ? kinds[index] : 1;
    viewer.frame(null);
    drawMask();
    const pixels = shown.pixels[above];
    figures(pixels / Math.max(shown.valid, 1), pixels * shown.pixel_area, countObjects());
    const query = new URLSearchParams({ threshold: chosen() });
    find("threshold-shown").textContent = chosen().toFixed(3);
    slider.setAttribute("aria-valuetext", chosen().toFixed(3));
    find("own").disabled = chosen() === page.threshold;
    find("mask-file").href = `comparisons/${shown.comparison}/mask-file?${query}`;
    find("mask-file").textContent = shown.raster ? "Mask, GeoTIFF" : "Mask, PNG";
    find("objects-file").href = `comparisons/${shown.comparison}/objects-file?${query}`;
    find("result").dataset.settled = "";
  }

  function figures(fraction, changed, objects) {
    const [value, unit] = area(changed, shown.unit);
    const small = Object.assign(document.createElement("small"), { textContent: unit });
    find("fraction").textContent = percent(fraction);
    find("area").replaceChildren(value, " ", small);
    find("count").textContent = number.format(objects);
  }

  /** What the server says of this threshold: the mask after post-processing, and its objects. */
  async function settle() {
    settling?.abort();
    settling = new AbortController();
    const { signal } = settling;
    const comparison = shown;
    const query = new URLSearchParams({ threshold: chosen() });
    const address = (what) => `comparisons/${comparison.comparison}/${what}?${query}`;
    try {
      const [decision, mask] = await Promise.all([
        ask(address("decision"), { signal }).then((answer) => answer.json()),
        ask(address("mask"), { signal }).then((answer) => answer.arrayBuffer()),
      ]);
      if (signal.aborted || comparison !== shown) return;
      shown.mask.set(new Uint8Array(mask));
      shown.changed = positive(shown.mask);
      drawMask();
      figures(decision.changed_fraction, decision.area, decision.objects);
      listObjects(decision);
      find("result").dataset.settled = decision.threshold;
    } catch (error) {
      if (error.name !== "AbortError") complain(error.message);
    }
  }

  function listObjects(decision) {
    const { largest, objects } = decision;
    find("objects-note").textContent =
      objects === 0 ? "None at this threshold." : objects > largest.length ? `The ${largest.length} largest of ${number.format(objects)}` : "";
    find("objects").replaceChildren(...largest.map((object, index) => {
      const item = document.createElement("li");
      const button = Object.assign(document.createElement("button"), { type: "button" });
      const part = (name, text, tag = "span") => Object.assign(document.createElement(tag), { className: name, textContent: text });
      const swatch = part("", "", "i");
      swatch.style.background = color(object.class);
      const size = area(object.area, shown.unit).join(" ");
      const name = several ? `${page.classes[object.class]}, ${size}` : size;
      button.append(part("rank", index + 1), swatch, part("", name), part("score", object.score.toFixed(2)));
      button.setAttribute("aria-pressed", "false");
      button.title = "Show it; the number at the end is the mean probability";
      button.addEventListener("click", () => frame(button, object.box));
      item.append(button);
      return item;
    }));
  }

  function frame(button, box) {
    const again = button.getAttribute("aria-pressed") === "true";
    for (const other of document.querySelectorAll(".objects [aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
    if (again) {
      viewer.frame(null);
      viewer.fit();
      return;
    }
    button.setAttribute("aria-pressed", "true");
    const [x, y, width, height] = box.map((length) => length / shown.factor);
    viewer.frame({ x, y, width, height });
    if (matchMedia("(max-width: 860px)").matches) find("stage").scrollIntoView({ block: "nearest" });
  }

  let drawing = 0;
  slider.addEventListener("input", () => {
    settling?.abort();
    cancelAnimationFrame(drawing);
    drawing = requestAnimationFrame(drawLive);
  });
  slider.addEventListener("change", () => {
    cancelAnimationFrame(drawing);
    drawLive();
    settle();
  });
  find("own").addEventListener("click", () => {
    slider.value = shown.thresholds.indexOf(page.threshold);
    drawLive();
    settle();
  });
})();
