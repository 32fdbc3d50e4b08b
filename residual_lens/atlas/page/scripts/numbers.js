// Every measure of a unit, and its place among the others.

class NumbersSection {
  #contents;
  #address;
  #unit;

  constructor(unit, contents, address) {
    this.#contents = contents;
    this.#address = address;
    this.#unit = unit;
    const single = contents.families.filter((family) => family.single).flatMap((family) => family.measures);
    const families = contents.families.filter((family) => !family.single);
    this.element = section(
      "In numbers",
      single.length ? this.#table(single) : null,
      families.map(({ title, measures }) => folded(title, this.#table(measures))),
    );
  }

  #table(measures) {
    const kin = this.#unit.kind === "head" ? "heads" : "MLPs";
    const head = element(
      "tr",
      {},
      ["measure", "value", `among ${kin}`].map((text) => element("th", { scope: "col" }, text)),
    );
    const rows = measures.map((measure) => this.#row(measure));
    return element("table", { className: "numbers" }, element("thead", {}, head), element("tbody", {}, rows));
  }

  #row(measure) {
    const button = element("button", { type: "button", className: "choice", title: measure.explanation }, measure.name);
    button.addEventListener("click", () => this.#address.change({ measure: measure.key }));
    const rank = this.#contents.rank(this.#unit, measure);
    return element(
      "tr",
      { "data-measure": measure.key },
      element("th", { scope: "row", className: classOfCell(measure.name) }, button),
      element("td", { className: "figure" }, number(this.#unit.measures[measure.key], measure.digits)),
      element("td", { className: "figure muted" }, rank === null ? "" : `${rank.place} of ${rank.of}`),
    );
  }

  /** Marks the measure that the grid shows. */
  show(key) {
    for (const row of this.element.querySelectorAll("[data-measure]")) {
      row.classList.toggle("chosen", row.dataset.measure === key);
      row.querySelector("button").setAttribute("aria-pressed", String(row.dataset.measure === key));
    }
  }
}
