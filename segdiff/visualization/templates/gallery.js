/* The gallery of a prediction folder: as many cells as are in sight, whatever the number of pairs, and the viewer of
   one pair, which the address names (#pair=NAME). Data: SEGDIFF_REPORT, from data.js. */
"use strict";

(() => {
  const { pairs, truth, legends, unsure: unsureBelow, sort: firstSort } = window.SEGDIFF_REPORT;
  const byName = new Map(pairs.map((pair) => [pair.name, pair]));
  const gallery = document.getElementById("gallery");
  const filters = document.getElementById("filters");
  const bars = [...document.querySelectorAll(".histogram button")];
  const number = new Intl.NumberFormat("en");

  let shown = pairs;

  const percent = (fraction) => {
    const value = fraction * 100;
    if (value === 0) return "0 %";
    return value < 0.01 ? "< 0.01 %" : `${value.toFixed(value < 10 ? 2 : 1)} %`;
  };
  const picture = (layer, pair, suffix) => `report/${layer}/${encodeURIComponent(pair.name)}.${suffix}`;
  const thumbnail = (pair) =>
    pair.layers ? picture("thumbnail", pair, "jpg") : `overlays/${encodeURIComponent(pair.name)}.jpg`;

  // ------------------------------------------------------------------------------------------- filter and sort

  const descending = (value) => (a, b) => value(b) - value(a);
  const unknownLast = (value) => (value == null ? Infinity : value);
  const ORDERS = {
    "changed-most": descending((pair) => pair.changed ?? -1),
    "changed-least": (a, b) => unknownLast(a.changed) - unknownLast(b.changed),
    "f1-worst": (a, b) => unknownLast(a.f1) - unknownLast(b.f1),
    "f1-best": descending((pair) => pair.f1 ?? -1),
    "objects-most": descending((pair) => pair.objects ?? -1),
    name: () => 0,
  };
  const alphabet = new Intl.Collator("en", { numeric: true });
  const alphabetical = [...pairs].sort((a, b) => alphabet.compare(a.name, b.name));

  function select() {
    const asked = Object.fromEntries(new FormData(filters));
    const words = asked.name.trim().toLowerCase();
    const from = asked.from === "" ? -Infinity : asked.from / 100;
    const to = asked.to === "" ? Infinity : asked.to / 100;
    const ranged = asked.from !== "" || asked.to !== "";
    const fits = (pair) =>
      (!words || pair.name.toLowerCase().includes(words)) &&
      (!asked.status || pair.status === asked.status) &&
      (!asked.class || Boolean(pair.classes?.[asked.class])) &&
      (!ranged || (pair.changed != null && pair.changed >= from - 1e-9 && pair.changed <= to + 1e-9));
    const order = ORDERS[asked.sort];
    // sorting is stable: what ties stays in the order of the names
    shown = alphabetical.filter(fits).sort((a, b) => order(a, b) || 0);
    const all = `${number.format(pairs.length)} ${pairs.length === 1 ? "pair" : "pairs"}`;
    document.getElementById("shown").textContent =
      shown.length === pairs.length ? all : `${number.format(shown.length)} of ${all}`;
    for (const bar of bars) {
      bar.setAttribute("aria-pressed", asked.from === bar.dataset.from && asked.to === bar.dataset.to);
    }
    redraw();
  }

  filters.sort.value = firstSort;
  filters.addEventListener("input", select);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(() => { filters.sort.value = firstSort; select(); }));
  for (const bar of bars) {
    bar.addEventListener("click", () => {
      const pressed = bar.getAttribute("aria-pressed") === "true";
      filters.from.value = pressed ? "" : bar.dataset.from;
      filters.to.value = pressed ? "" : bar.dataset.to;
      select();
    });
  }

  // ------------------------------------------------------------------------------------------------- the cells

  const GAP = 12;
  const cells = new Map(); // index in `shown` -> element
  let columns = 1;
  let cellWidth = 0;
  let rowHeight = 1;

  function measure() {
    const width = gallery.clientWidth;
    const narrow = width < 520;
    columns = Math.max(narrow ? 2 : Math.floor((width + GAP) / (188 + GAP)), 1);
    cellWidth = (width - GAP * (columns - 1)) / columns;
    rowHeight = cellWidth + 58 + GAP;
  }

  function redraw() {
    for (const cell of cells.values()) cell.remove();
    cells.clear();
    gallery.style.height = `${Math.ceil(shown.length / columns) * rowHeight}px`;
    draw();
  }

  /** Makes the cells that are in sight or nearly, and drops the others. */
  function draw() {
    const top = -gallery.getBoundingClientRect().top;
    const first = Math.max(Math.floor((top - rowHeight) / rowHeight), 0) * columns;
    const last = Math.min(Math.ceil((top + innerHeight + rowHeight) / rowHeight) * columns, shown.length);
    for (const [index, cell] of cells) {
      if ((index < first || index >= last) && !cell.contains(document.activeElement)) {
        cell.remove();
        cells.delete(index);
      }
    }
    for (let index = first; index < last; index++) {
      if (!cells.has(index)) place(index);
    }
  }

  function place(index) {
    const cell = makeCell(shown[index], index);
    cell.style.width = `${cellWidth}px`;
    cell.style.transform =
      `translate(${(index % columns) * (cellWidth + GAP)}px, ${Math.floor(index / columns) * rowHeight}px)`;
    // in the order of the pairs, which is that of the Tab key
    const following = [...cells.keys()].filter((other) => other > index);
    gallery.insertBefore(cell, following.length ? cells.get(Math.min(...following)) : null);
    cells.set(index, cell);
  }

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function makeCell(pair, index) {
    const cell = element("div", "cell");
    cell.setAttribute("role", "listitem");
    cell.setAttribute("aria-posinset", index + 1);
    cell.setAttribute("aria-setsize", shown.length);
    const link = element("a", pair.status === "ok" ? "" : "is-failed");
    link.href = addressOf(pair);
    link.dataset.index = index;
    const frame = element("span", "frame");
    if (pair.status === "ok") {
      const image = element("img");
      image.loading = "lazy";
      image.decoding = "async";
      image.alt = "";
      image.src = thumbnail(pair);
      frame.append(image);
    } else {
      frame.append(element("span", "error", pair.error));
    }
    const name = element("span", "name", pair.name);
    name.title = pair.name;
    const figures = element("span", "figures-line");
    if (pair.status === "ok") {
      if (truth) figures.append(element("b", "", pair.f1 == null ? "no change" : `F1 ${pair.f1.toFixed(3)}`));
      figures.append(element(truth ? "span" : "b", "", percent(pair.changed)));
      figures.append(element("span", "", `${number.format(pair.objects)} ${pair.objects === 1 ? "object" : "objects"}`));
    } else {
      figures.append(element("b", "", "failed"));
    }
    link.append(frame, name, figures);
    cell.append(link);
    return cell;
  }

  gallery.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const link = event.target.closest("a");
    if (!link || !(event.key in steps)) return;
    event.preventDefault();
    focusCell(Number(link.dataset.index) + steps[event.key]);
  });

  function focusCell(index) {
    if (index < 0 || index >= shown.length) return;
    const top = gallery.getBoundingClientRect().top + Math.floor(index / columns) * rowHeight;
    const margin = filters.offsetHeight + GAP;
    if (top < margin) scrollBy(0, top - margin);
    else if (top + rowHeight > innerHeight) scrollBy(0, top + rowHeight - innerHeight);
    draw();
    cells.get(index).querySelector("a").focus({ preventScroll: true });
  }

  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }
  addEventListener("scroll", later, { passive: true });
  addEventListener("resize", later);
  new ResizeObserver(() => { measure(); redraw(); }).observe(gallery);

  // ------------------------------------------------------------------------------------------------ the viewer

  const dialog = document.getElementById("viewer");
  const body = document.getElementById("viewer-body");
  const compare = element("div");
  const plain = element("div", "plain");
  body.append(compare, plain);
  const viewer = new window.SegdiffViewer(compare, { keys: dialog });
  let current = null;

  function addressOf(pair) {
    return `#pair=${encodeURIComponent(pair.name)}`;
  }

  function layersOf(pair) {
    const layer = (id, label, on, legend, dim = "") =>
      ({ id, label, key: label[0].toLowerCase(), url: picture(id, pair, "png"), on, legend, dim });
    const heat = [{ name: "probability 0 to 1", color: legends.probability }];
    return [
      ...(truth ? [layer("outcome", "Truth", true, legends.outcomes, "grey")] : []),
      layer("contour", "Contour", !truth, legends.classes),
      layer("mask", "Mask", false, legends.classes),
      layer("probability", "Probability", false, heat, "dark"),
    ];
  }

  function figuresOf(pair) {
    if (pair.status !== "ok") return [pair.error];
    const parts = [`${percent(pair.changed)} changed`];
    if (pair.unit === "m2") parts.push(`${number.format(Math.round(pair.area))} m²`);
    else parts.push(`${number.format(pair.pixels)} pixels`);
    const kinds = Object.entries(pair.classes ?? {}).map(([name, count]) => `${name} ${number.format(count)}`);
    parts.push(`${number.format(pair.objects)} ${pair.objects === 1 ? "object" : "objects"}`);
    if (kinds.length) parts.push(kinds.join(", "));
    if (pair.confidence != null) {
      const unsure = pair.confidence < unsureBelow ? ": nothing can be told" : "";
      parts.push(`confidence ${pair.confidence.toFixed(2)}${unsure}`);
    }
    if (truth && pair.f1 != null) {
      for (const [label, key] of [["F1", "f1"], ["precision", "precision"], ["recall", "recall"]]) {
        if (pair[key] != null) parts.push(`${label} ${pair[key].toFixed(3)}`);
      }
    }
    return parts;
  }

  function open(pair) {
    current = pair;
    const index = shown.indexOf(pair);
    document.getElementById("viewer-name").textContent = pair.name;
    document.getElementById("viewer-figures").replaceChildren(
      ...figuresOf(pair).map((text) => element("span", "", text)));
    document.getElementById("position").textContent =
      index < 0 ? "" : `${number.format(index + 1)} / ${number.format(shown.length)}`;
    document.getElementById("previous").disabled = index <= 0;
    document.getElementById("next").disabled = index < 0 || index + 1 >= shown.length;
    if (!dialog.open) dialog.showModal();
    const comparable = pair.status === "ok" && pair.layers;
    compare.hidden = !comparable;
    plain.hidden = comparable;
    if (comparable) {
      viewer.show({
        before: picture("before", pair, "jpg"),
        after: picture("after", pair, "jpg"),
        layers: layersOf(pair),
      });
      viewer.divider.focus({ preventScroll: true });
      preload(shown[index + 1]);
    } else {
      plain.replaceChildren();
      if (pair.status === "ok") {
        const image = element("img");
        image.src = thumbnail(pair);
        image.alt = `Overlay of ${pair.name}`;
        plain.append(image);
      } else {
        plain.append(element("p", "", pair.error));
      }
    }
  }

  function preload(pair) {
    if (!pair || pair.status !== "ok" || !pair.layers) return;
    for (const layer of ["before", "after"]) new Image().src = picture(layer, pair, "jpg");
  }

  function step(by) {
    const next = shown[shown.indexOf(current) + by];
    if (next && current) location.replace(addressOf(next));
  }

  function follow() {
    const name = location.hash.startsWith("#pair=") ? decodeURIComponent(location.hash.slice(6)) : null;
    const pair = name === null ? null : byName.get(name);
    if (pair) {
      open(pair);
    } else if (dialog.open) {
      dialog.close();
      settle();
    }
  }

  /** Back in the gallery: the focus is on the pair that was seen last. */
  function settle() {
    viewer.stopBlink();
    const index = shown.indexOf(current);
    current = null;
    if (index >= 0) focusCell(index);
  }

  function leave() {
    location.replace("#all"); // names nothing, so that the page stays where it is
  }

  dialog.addEventListener("cancel", (event) => { event.preventDefault(); leave(); });
  dialog.addEventListener("close", () => {
    if (!current) return;
    settle(); // the browser closed it by itself, as it does on a second Escape
    leave();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowUp") step(-1);
    else if (event.key === "ArrowDown") step(1);
    else return;
    event.preventDefault();
  });
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  document.getElementById("close").addEventListener("click", leave);
  addEventListener("hashchange", follow);

  measure();
  select();
  follow();
})();
