// A unit's first principal components: images and texts at both ends of each, and where the head looked in them.

class DirectionsSection {
  #contents;
  #address;
  #unit;
  #tabs;
  #ends;
  #slider = null;

  constructor(unit, contents, address) {
    this.#contents = contents;
    this.#address = address;
    this.#unit = unit;
    this.#tabs = unit.components.map((component, i) => {
      const tab = element(
        "button",
        { type: "button", className: "choice" },
        element("strong", {}, String(i + 1)),
        ` ${percent(component.share, 0)}`,
      );
      tab.setAttribute("aria-label", `Component ${i + 1}, ${percent(component.share)} of the variance`);
      tab.addEventListener("click", () => address.change({ component: i + 1 }));
      return tab;
    });
    this.#ends = element("div", { className: "ends" });
    this.element = unit.components.length
      ? section(
          "Its directions",
          element("div", { className: "tabs", role: "group", "aria-label": "Component" }, this.#tabs),
          this.#ends,
          this.#attentionSlider(),
        )
      : section("Its directions", note("It does not vary, so it has none."));
  }

  /** Shows a component, the last one where the unit has fewer; components are counted from 1. */
  show(component) {
    if (this.#tabs.length === 0) return;
    const chosen = Math.min(component, this.#tabs.length) - 1;
    this.#tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", String(i === chosen)));
    const entry = this.#unit.components[chosen];
    fill(
      this.#ends,
      this.#end("−", "low", entry.low, entry.low_texts),
      this.#end("+", "high", entry.high, entry.high_texts),
    );
  }

  #end(sign, name, images, texts) {
    const pictures = images.map((image) => element("li", {}, this.#picture(image)));
    return element(
      "div",
      { className: "end" },
      element(
        "h4",
        {},
        element("span", { className: "sign", "aria-label": `${name} end` }, sign),
        texts.length ? texts.join(", ") : "",
      ),
      element("ul", { className: "pictures", "--pictures": String(pictures.length) }, pictures),
    );
  }

  #picture(image) {
    const { images, captions, grid } = this.#contents;
    const attention = this.#unit.attention[image];
    return element(
      "figure",
      { className: "frame", title: captions[image], "--ratio": `${grid[1]} / ${grid[0]}` },
      element("img", { src: images[image], alt: captions[image] }),
      attention ? shade(attention, grid) : null,
    );
  }

  /** Sets the slider, one for all cards; the shades themselves follow a property of the page. */
  showAttention(attention) {
    if (this.#slider) this.#slider.value = String(attention);
  }

  #attentionSlider() {
    if (Object.keys(this.#unit.attention).length === 0) {
      const why =
        this.#unit.kind === "mlp"
          ? "An MLP reads one token at a time: it has no attention."
          : "There is no attention to show.";
      return note(why);
    }
    this.#slider = element("input", { type: "range", min: 0, max: 100, step: 10, className: "attention-slider" });
    this.#slider.addEventListener("input", () =>
      this.#address.change({ attention: Number(this.#slider.value) }, { passing: true }),
    );
    return element("label", { className: "slider muted" }, "Darken where it does not look", this.#slider);
  }
}

/** A shade that lets through what the head attends to, from bytes of rows × columns in base64, 255 the most. */
function shade(attention, [rows, columns]) {
  const canvas = element("canvas", { width: columns, height: rows, className: "shade", "aria-hidden": "true" });
  const bytes = Uint8Array.from(atob(attention), (character) => character.charCodeAt(0));
  const pixels = new ImageData(columns, rows);
  bytes.forEach((byte, i) => (pixels.data[4 * i + 3] = 255 - byte));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
