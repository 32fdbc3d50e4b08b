// All units, a row a layer and a column a head, coloured by the chosen measure.

/** What the keyboard does, as it is told below the grid. */
const KEYS = [
  ["Arrows", " move, "],
  ["Enter", " opens, "],
  ["Shift", " + "],
  ["Enter", " or click compares, "],
  ["/", " searches, "],
  ["Esc", " closes."],
];

class Grid {
  #contents;
  #address;
  #cells = new Map();
  #legend;
  #hint;

  constructor(place, contents, address) {
    this.#contents = contents;
    this.#address = address;
    this.table = this.#build();
    this.#legend = element("div", { className: "legend" });
    this.#hint = element("p", { className: "hint muted" });
    const keys = KEYS.flatMap(([key, text]) => [element("kbd", {}, key), text]);
    fill(
      place,
      element("div", { className: "scroller" }, this.table),
      this.#legend,
      this.#hint,
      element("p", { className: "keys muted" }, keys),
    );
    this.table.addEventListener("keydown", (event) => this.#move(event));
    this.table.addEventListener("focusin", (event) => this.#rove(event.target.closest("button")));
    for (const type of ["focusin", "pointerover"]) {
      this.table.addEventListener(type, (event) => this.#say(event.target.closest("button")));
    }
    this.table.addEventListener("pointerleave", () => this.#say(null));
  }

  #build() {
    const { n_heads: nHeads, units } = this.#contents;
    const layers = [...new Set(units.map((unit) => unit.layer))].sort((a, b) => a - b);
    const nColumns = 1 + Math.max(...units.map((unit) => unit.column));
    const dense = nColumns > 10;
    const headings = Array.from({ length: nColumns }, (_, column) =>
      element("th", { scope: "col", role: "columnheader" }, column < nHeads ? `${dense ? "" : "H"}${column}` : "MLP"),
    );
    const rows = layers.map((layer) => {
      const cells = Array.from({ length: nColumns }, () => element("td", { role: "gridcell" }));
      return element("tr", { role: "row" }, element("th", { scope: "row", role: "rowheader" }, `L${layer}`), cells);
    });
    units.forEach((unit) => rows[layers.indexOf(unit.layer)].cells[1 + unit.column].append(this.#cell(unit)));
    const head = element("tr", { role: "row" }, element("td", { role: "gridcell" }), headings);
    return element(
      "table",
      {
        role: "grid",
        className: dense ? "grid dense" : "grid",
        "aria-label": "Units: rows are layers, columns are heads",
      },
      element("thead", {}, head),
      element("tbody", {}, rows),
    );
  }

  #cell(unit) {
    const button = element("button", { type: "button", tabIndex: -1, className: unit.kind });
    button.dataset.unit = unit.name;
    button.addEventListener("click", (event) => {
      if (event.shiftKey || event.ctrlKey || event.metaKey) this.#address.compare(unit.name);
      else this.#address.open(unit.name);
    });
    this.#cells.set(unit.name, button);
    return button;
  }

  focus(name) {
    this.#cells.get(name)?.focus();
  }

  /** Colours, values and names of the cells for a measure. */
  colour(key) {
    const measure = this.#contents.byKey.get(key);
    const [low, high] = this.#contents.range(measure);
    const scale = scaleOf(measure);
    this.#contents.units.forEach((unit) => {
      const [button, value] = [this.#cells.get(unit.name), unit.measures[key]];
      const rgb = value == null ? null : colourAt(scale, (value - low) / (high - low));
      button.classList.toggle("undefined", rgb === null);
      button.style.background = rgb === null ? "" : css(rgb);
      button.style.color = rgb === null ? "" : inkOn(rgb);
      button.textContent = number(value, measure.digits);
      const said = value == null ? "not defined" : number(value, measure.digits);
      button.setAttribute("aria-label", `${unit.name}, ${measure.name} ${said}`);
    });
    this.#drawLegend(measure, scale, low, high);
    this.#say(null);
  }

  /** Marks what is shown, and what a search found. */
  mark(units, found) {
    this.table.classList.toggle("searched", found !== null);
    this.#cells.forEach((button, name) => {
      button.setAttribute("aria-pressed", String(units.includes(name)));
      button.classList.toggle("found", found?.has(name) ?? false);
    });
    if (!this.table.contains(document.activeElement)) {
      this.#rove(this.#cells.get(units.at(-1)) ?? this.#cells.values().next().value);
    }
  }

  #drawLegend(measure, scale, low, high) {
    const bar = element("div", { className: "bar", "aria-hidden": "true" }, element("i", { hidden: true }));
    const stops = scale.map((_, i) => css(colourAt(scale, i / (scale.length - 1))));
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const values = this.#contents.values(measure, this.#contents.units);
    const said = (value, beyond, sign) => (values.some(beyond) ? `${sign} ` : "") + number(value, measure.digits);
    const ends = [said(low, (value) => value < low, "≤"), said(high, (value) => value > high, "≥")];
    const ticks = [ends[0], number((low + high) / 2, measure.digits), ends[1]].map((text) => element("span", {}, text));
    const missing = this.#contents.units.some((unit) => unit.measures[measure.key] == null)
      ? element("p", { className: "missing muted" }, element("i", { className: "undefined" }), "not defined")
      : null;
    fill(this.#legend, bar, element("div", { className: "ticks" }, ticks), missing);
  }

  /** One line under the grid about the unit that is pointed at, and its place on the scale. */
  #say(button) {
    const measure = this.#contents.byKey.get(this.#address.state.measure);
    const marker = this.#legend.querySelector(".bar i");
    const unit = button && this.#contents.byName.get(button.dataset.unit);
    const value = unit?.measures[measure.key];
    const [low, high] = this.#contents.range(measure);
    marker.hidden = value == null;
    if (value != null) marker.style.left = `${Math.min(100, Math.max(0, (100 * (value - low)) / (high - low)))}%`;
    if (!unit) {
      fill(this.#hint, measure.explanation);
      return;
    }
    const words = unit.description
      .slice(0, 3)
      .map((said) => said.text)
      .join(", ");
    const said = value == null ? "not defined" : number(value, measure.digits);
    fill(this.#hint, element("strong", {}, unit.name), ` ${measure.name} ${said}${words && " · "}${words}`);
  }

  /** Only one cell is a stop of the Tab key: the one that had the focus last. */
  #rove(button) {
    if (!button) return;
    this.table.querySelectorAll('button[tabindex="0"]').forEach((other) => (other.tabIndex = -1));
    button.tabIndex = 0;
  }

  /** Along a row over places without a unit, or to the nearest unit of the next row: each row has one. */
  #move(event) {
    const cell = event.target.closest("td");
    if (!cell || event.altKey || event.ctrlKey || event.metaKey) return;
    const row = cell.parentElement;
    const [before, after] = [row.previousElementSibling, row.nextElementSibling];
    const filled = (cells) => [...(cells ?? [])].filter((one) => one.querySelector("button"));
    const nearest = (cells) => {
      const apart = (one) => Math.abs(one.cellIndex - cell.cellIndex);
      return filled(cells).sort((a, b) => apart(a) - apart(b))[0];
    };
    const own = filled(row.cells);
    const steps = {
      ArrowLeft: () => own[own.indexOf(cell) - 1],
      ArrowRight: () => own[own.indexOf(cell) + 1],
      ArrowUp: () => nearest(before?.cells),
      ArrowDown: () => nearest(after?.cells),
      Home: () => own[0],
      End: () => own.at(-1),
    };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    step()?.querySelector("button").focus();
  }
}
