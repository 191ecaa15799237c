/* A viewer of two images of the same place, with layers on them: swipe, blink, zoom and pan, by mouse, touch and keys.

   const viewer = new SegdiffViewer(element);
   viewer.show({
     before: "before.jpg", after: "after.jpg",                       // addresses of pictures of one size
     layers: [{ id: "mask", label: "Mask", key: "m", url: "mask.png", on: true,
                legend: [{ name: "change", color: "rgb(255, 110, 0)" }],   // color: any background of CSS
                dim: "" }],                                                // "grey", "dark": of the images beneath it
   });
   viewer.frame({ x: 10, y: 20, width: 5, height: 5 });                // zooms to a part of the picture, framed

   A layer may have a `canvas` of its own to be drawn on at any time instead of a `url`.


   It builds what it needs in the element and listens to keys on `keys` (the element itself unless named). Which layers
   are on is remembered by their id from one pair to the next. */
"use strict";

class SegdiffViewer {
  constructor(element, { keys = element } = {}) {
    this.element = element;
    this.chosen = new Map(); // layer id -> on
    this.position = 0.5; // of the divider, as a share of the visible part of the images
    this.view = { scale: 1, x: 0, y: 0 };
    this.size = { width: 0, height: 0 };
    this.alone = null; // "before" or "after" while blinking
    this.timer = 0;
    this.request = 0;
    this.pointers = new Map();
    this.build();
    this.viewport.addEventListener("pointerdown", (event) => this.press(event));
    this.viewport.addEventListener("pointermove", (event) => this.drag(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      this.viewport.addEventListener(kind, (event) => this.release(event));
    }
    this.viewport.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.viewport.addEventListener("dblclick", (event) => this.toggleZoom(event));
    keys.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.fit()).observe(this.viewport);
  }

  build() {
    this.element.classList.add("sd-viewer");
    this.element.innerHTML = `
      <div class="sd-viewport">
        <div class="sd-pane"><div class="sd-scene"><img class="sd-after" alt="after" draggable="false"></div></div>
        <div class="sd-pane sd-clipped"><div class="sd-scene"><img class="sd-before" alt="before" draggable="false"></div></div>
        <div class="sd-pane"><div class="sd-scene sd-layers"></div></div>
        <div class="sd-pane"><div class="sd-frame" hidden></div></div>
        <span class="sd-tag sd-tag-before">before</span><span class="sd-tag sd-tag-after">after</span>
        <div class="sd-divider" role="slider" tabindex="0" aria-label="Boundary between before and after"
          aria-orientation="horizontal" aria-valuemin="0" aria-valuemax="100"><i></i></div>
        <ul class="sd-legend" aria-label="Legend"></ul>
        <p class="sd-message" role="alert" hidden></p>
      </div>
      <div class="sd-bar" role="toolbar" aria-label="Layers and zoom">
        <div class="sd-switches"></div>
        <div class="sd-tools">
          <button type="button" data-act="blink" aria-pressed="false" title="Blink (Space)">Blink</button>
          <button type="button" data-act="out" aria-label="Zoom out" title="Zoom out (−)">−</button>
          <output class="sd-zoom" aria-label="Zoom"></output>
          <button type="button" data-act="in" aria-label="Zoom in" title="Zoom in (+)">+</button>
          <button type="button" data-act="fit" title="Whole picture (0)">Fit</button>
        </div>
      </div>`;
    const find = (name) => this.element.querySelector(name);
    this.viewport = find(".sd-viewport");
    this.before = find(".sd-before");
    this.after = find(".sd-after");
    this.clipped = find(".sd-clipped");
    this.layerScene = find(".sd-layers");
    this.framed = find(".sd-frame");
    this.divider = find(".sd-divider");
    this.legend = find(".sd-legend");
    this.message = find(".sd-message");
    this.switches = find(".sd-switches");
    this.zoomShown = find(".sd-zoom");
    this.blinkButton = find('[data-act="blink"]');
    const acts = {
      blink: () => this.blink(),
      in: () => this.zoom(1.5),
      out: () => this.zoom(1 / 1.5),
      fit: () => this.fit(),
    };
    find(".sd-bar").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.layer) this.toggle(button.dataset.layer);
      else acts[button.dataset.act]();
      // after a click the keys belong to the picture again; who came by Tab stays on the button
      if (event.detail > 0) this.divider.focus({ preventScroll: true });
    });
  }

  /** Shows a pair; resolves when its images are there. */
  async show({ before, after, layers = [] }) {
    const request = ++this.request;
    this.stopBlink();
    this.message.hidden = true;
    this.viewport.classList.add("sd-loading");
    this.before.src = before;
    this.after.src = after;
    this.layers = layers;
    this.framed.hidden = true;
    this.layerScene.replaceChildren(...layers.map((layer) => this.layerImage(layer)));
    this.switches.replaceChildren(...layers.map((layer) => this.layerSwitch(layer)));
    this.showLayers();
    try {
      await Promise.all([this.before.decode(), this.after.decode()]);
    } catch (error) {
      if (request === this.request) this.complain(`These pictures cannot be shown: ${before}, ${after}`);
      return;
    }
    if (request !== this.request) return; // another pair has been asked for
    this.size = { width: this.after.naturalWidth, height: this.after.naturalHeight };
    this.position = 0.5;
    this.fit();
    this.viewport.classList.remove("sd-loading");
  }

  complain(text) {
    this.message.textContent = text;
    this.message.hidden = false;
  }

  layerImage(layer) {
    const image = layer.canvas ?? new Image();
    image.dataset.layer = layer.id;
    if (layer.canvas) return image;
    image.alt = "";
    image.draggable = false;
    image.addEventListener("error", () => this.complain(`The layer ${layer.label} cannot be shown: ${layer.url}`));
    return image;
  }

  layerSwitch(layer) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.layer = layer.id;
    button.textContent = layer.label;
    button.title = `${layer.label} (${layer.key.toUpperCase()})`;
    return button;
  }

  isOn(layer) {
    return this.chosen.get(layer.id) ?? layer.on;
  }

  toggle(id) {
    const layer = this.layers.find((one) => one.id === id);
    this.chosen.set(id, !this.isOn(layer));
    this.showLayers();
  }

  showLayers() {
    for (const layer of this.layers) {
      const image = this.layerScene.querySelector(`[data-layer="${layer.id}"]`);
      const on = this.isOn(layer);
      if (on && !layer.canvas && !image.hasAttribute("src")) image.src = layer.url; // loaded when it is first wanted
      image.hidden = !on;
      this.switches.querySelector(`[data-layer="${layer.id}"]`).setAttribute("aria-pressed", on);
    }
    const visible = this.layers.filter((layer) => this.isOn(layer));
    for (const dim of ["grey", "dark"]) {
      this.viewport.classList.toggle(`sd-${dim}`, visible.some((layer) => layer.dim === dim));
    }
    const keys = new Map(visible.flatMap((layer) => layer.legend ?? []).map((key) => [key.name, key]));
    this.legend.replaceChildren(...[...keys.values()].map((key) => this.legendKey(key)));
  }

  legendKey({ name, color }) {
    const item = document.createElement("li");
    const swatch = document.createElement("i");
    swatch.style.background = color;
    swatch.classList.toggle("sd-ramp", color.includes("gradient"));
    item.append(swatch, name);
    return item;
  }

  // ------------------------------------------------------------------------------------------------ zoom and pan

  get fitting() {
    const { clientWidth, clientHeight } = this.viewport;
    // small pictures are enlarged, but not without end
    return Math.min(clientWidth / this.size.width, clientHeight / this.size.height, 4) || 1;
  }

  get zoomed() {
    return this.view.scale > this.fitting * 1.001;
  }

  fit() {
    this.view.scale = this.fitting;
    this.draw();
  }

  /** Zooms by a factor about a point of the viewport, its middle unless named. */
  zoom(factor, x = this.viewport.clientWidth / 2, y = this.viewport.clientHeight / 2) {
    const { scale } = this.view;
    const next = Math.min(Math.max(scale * factor, this.fitting), Math.max(16, this.fitting * 4));
    this.view = {
      scale: next,
      x: x - ((x - this.view.x) * next) / scale,
      y: y - ((y - this.view.y) * next) / scale,
    };
    this.draw();
  }

  /** Zooms to a box in pixels of the pictures and puts a frame around it; without a box the frame goes. */
  frame(box) {
    this.framed.hidden = !box;
    if (!box) return;
    this.box = box;
    const { clientWidth, clientHeight } = this.viewport;
    const share = 0.25; // of the viewport: what lies around an object says what it is
    const scale = Math.min((clientWidth * share) / box.width, (clientHeight * share) / box.height, 6);
    this.view.scale = Math.max(scale, this.fitting);
    this.view.x = clientWidth / 2 - (box.x + box.width / 2) * this.view.scale;
    this.view.y = clientHeight / 2 - (box.y + box.height / 2) * this.view.scale;
    this.draw();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.draw();
  }

  wheel(event) {
    event.preventDefault();
    const { x, y } = this.at(event);
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), x, y);
  }

  toggleZoom(event) {
    if (event.target.closest(".sd-divider")) return;
    const { x, y } = this.at(event);
    if (this.zoomed) this.fit();
    else this.zoom(Math.max(1 / this.view.scale, 2.5), x, y);
  }

  // ------------------------------------------------------------------------------------------------------ drawing

  /** The columns of the viewport, from and to, in which there is a picture. */
  get visible() {
    const width = this.viewport.clientWidth;
    return {
      left: Math.max(this.view.x, 0),
      right: Math.min(this.view.x + this.size.width * this.view.scale, width),
    };
  }

  draw() {
    const { clientWidth, clientHeight } = this.viewport;
    const { view, size } = this;
    const within = (at, length, room) => (length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, at)));
    view.x = within(view.x, size.width * view.scale, clientWidth);
    view.y = within(view.y, size.height * view.scale, clientHeight);
    for (const scene of this.viewport.querySelectorAll(".sd-scene")) {
      scene.style.width = `${size.width}px`;
      scene.style.height = `${size.height}px`;
      scene.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    }
    if (!this.framed.hidden) {
      const { x, y, width, height } = this.box;
      this.framed.style.transform = `translate(${view.x + x * view.scale}px, ${view.y + y * view.scale}px)`;
      this.framed.style.width = `${width * view.scale}px`;
      this.framed.style.height = `${height * view.scale}px`;
    }
    this.viewport.classList.toggle("sd-sharp", view.scale >= 3);
    this.viewport.classList.toggle("sd-zoomed", this.zoomed);
    this.zoomShown.textContent = `${Math.round(view.scale * 100)} %`;
    this.drawDivider();
  }

  drawDivider() {
    const { left, right } = this.visible;
    const x = left + this.position * (right - left);
    const percent = Math.round(this.position * 100);
    const cut = this.alone === "before" ? 0 : this.alone === "after" ? this.viewport.clientWidth : this.viewport.clientWidth - x;
    this.clipped.style.clipPath = `inset(0 ${cut}px 0 0)`;
    this.divider.style.transform = `translateX(${x}px)`;
    this.divider.setAttribute("aria-valuenow", percent);
    this.divider.setAttribute("aria-valuetext", `${percent} % before, ${100 - percent} % after`);
    this.viewport.dataset.alone = this.alone ?? "";
  }

  slideTo(position) {
    this.stopBlink();
    this.position = Math.min(Math.max(position, 0), 1);
    this.drawDivider();
  }

  slideToColumn(x) {
    const { left, right } = this.visible;
    this.slideTo((x - left) / Math.max(right - left, 1));
  }

  // -------------------------------------------------------------------------------------------------------- blink

  /** Starts or stops to show before and after in turn; where motion is unwanted each call shows the other one. */
  blink() {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (this.timer) {
      this.stopBlink();
      return;
    }
    this.alone = this.alone === "before" ? "after" : "before";
    this.blinkButton.setAttribute("aria-pressed", true);
    this.drawDivider();
    if (!still) {
      this.timer = setInterval(() => {
        this.alone = this.alone === "before" ? "after" : "before";
        this.drawDivider();
      }, 700);
    }
  }

  stopBlink() {
    clearInterval(this.timer);
    this.timer = 0;
    this.alone = null;
    this.blinkButton.setAttribute("aria-pressed", false);
    this.drawDivider();
  }

  // ------------------------------------------------------------------------------------------- pointers and keys

  at(event) {
    const box = this.viewport.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  press(event) {
    if (event.button !== 0) return;
    const point = this.at(event);
    this.viewport.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, point);
    const onDivider = Boolean(event.target.closest(".sd-divider"));
    this.gesture = this.pointers.size > 1 ? "pinch" : onDivider || !this.zoomed ? "slide" : "pan";
    // a finger may be the first of two
    if (this.gesture === "slide" && event.pointerType !== "touch") this.slideToColumn(point.x);
    this.divider.focus({ preventScroll: true });
    event.preventDefault();
  }

  drag(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const point = this.at(event);
    this.pointers.set(event.pointerId, point);
    if (this.gesture === "slide") {
      this.slideToColumn(point.x);
    } else if (this.gesture === "pan") {
      this.pan(point.x - last.x, point.y - last.y);
    } else if (this.pointers.size === 2) {
      const other = [...this.pointers.entries()].find(([id]) => id !== event.pointerId)[1];
      const apart = (a) => Math.hypot(a.x - other.x, a.y - other.y);
      this.pan((point.x - last.x) / 2, (point.y - last.y) / 2);
      this.zoom(apart(point) / Math.max(apart(last), 1), (point.x + other.x) / 2, (point.y + other.y) / 2);
    }
  }

  release(event) {
    this.pointers.delete(event.pointerId);
    // the finger that is left of two must not tear the slider along
    if (this.pointers.size) this.gesture = "pan";
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target.closest("button")) return; // presses the button
    const step = event.shiftKey ? 0.1 : 0.02;
    const letter = event.key.toLowerCase();
    const acts = {
      ArrowLeft: () => this.slideTo(this.position - step),
      ArrowRight: () => this.slideTo(this.position + step),
      PageDown: () => this.slideTo(this.position - 0.1),
      PageUp: () => this.slideTo(this.position + 0.1),
      Home: () => this.slideTo(0),
      End: () => this.slideTo(1),
      " ": () => this.blink(),
      "+": () => this.zoom(1.5),
      "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5),
      0: () => this.fit(),
    };
    const layer = (this.layers ?? []).find((one) => one.key === letter);
    const act = acts[event.key] ?? (layer && (() => this.toggle(layer.id)));
    if (!act) return;
    act();
    event.preventDefault();
  }
}

window.SegdiffViewer = SegdiffViewer;
