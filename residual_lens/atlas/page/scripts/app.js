// Puts the parts together: what is chosen goes to the address, and from there to all of them.

/** Groups of measures that stand alone. */
const GROUPS = { effect: "Effects", relation: "Relations", dimension: "Dimensions", training: "Training" };

class App {
  #contents;
  #address;
  #grid;
  #search;
  #summary;
  #measure;
  #found = null;
  #cards = new Map();
  #cardsPlace = document.getElementById("cards");

  constructor(contents) {
    this.#contents = contents;
    this.#address = new Address(contents);
    document.getElementById("title").textContent = contents.title;
    document.getElementById("lead").textContent = lead(contents);
    this.#summary = new Summary(document.getElementById("summary"), contents, this.#address);
    this.#measure = this.#measureField(document.getElementById("measure"));
    this.#grid = new Grid(document.getElementById("grid"), contents, this.#address);
    this.#search = new SearchPanel(document.getElementById("search"), this.#address);
    fill(document.getElementById("facts"), facts(contents));
    this.#address.whenChanged((state, before) => this.#show(state, before));
    this.#show(this.#address.state, null);
    dark.addEventListener("change", () => this.#grid.colour(this.#address.state.measure));
    document.addEventListener("keydown", (event) => this.#press(event));
  }

  #measureField(place) {
    const groups = this.#contents.families.map(({ single, title, measures }) =>
      element(
        "optgroup",
        { label: single ? (GROUPS[title] ?? title) : title },
        measures.map((one) => element("option", { value: one.key }, one.name)),
      ),
    );
    const field = element("select", { id: "measures" }, groups);
    field.addEventListener("change", () => this.#address.change({ measure: field.value }));
    fill(place, element("label", { for: "measures" }, "Colour by"), field);
    return field;
  }

  /** Shows what is chosen; only what changed is drawn again. */
  #show(state, before) {
    const changed = (...keys) => before === null || keys.some((key) => String(before[key]) !== String(state[key]));
    document.documentElement.style.setProperty("--attention", String(state.attention / 100));
    if (changed("measure")) {
      this.#measure.value = state.measure;
      this.#grid.colour(state.measure);
    }
    if (changed("units")) this.#dealCards(state.units, before !== null);
    if (changed("search")) this.#found = state.search.trim() === "" ? null : search(this.#contents, state.search);
    if (changed("units", "search")) {
      this.#grid.mark(state.units, this.#found && new Set(this.#found.map(({ unit }) => unit.name)));
    }
    const shown = state.units.map((name) => this.#contents.byName.get(name));
    const top = 1.05 * Math.max(0.01, ...shown.flatMap((unit) => unit.spectrum.slice(0, 1)));
    this.#cards.forEach((card) => card.show(state, top));
    // Links hold the whole address, so that each choice changes them.
    this.#search.show(state, this.#found);
    this.#summary.show(state);
  }

  #dealCards(names, announced) {
    for (const [name, card] of this.#cards) {
      if (names.includes(name)) continue;
      // Whoever closed it goes on where it was opened.
      if (card.element.contains(document.activeElement)) this.#grid.focus(name);
      card.destroy();
      this.#cards.delete(name);
    }
    for (const name of names.filter((one) => !this.#cards.has(one))) {
      this.#cards.set(name, new Card(this.#contents.byName.get(name), this.#contents, this.#address));
    }
    const cards = names.map((name) => this.#cards.get(name).element);
    const empty = element("p", { className: "empty muted" }, "Choose a unit in the grid to read about it.");
    fill(this.#cardsPlace, cards.length ? cards : empty);
    this.#cardsPlace.classList.toggle("several", cards.length > 1);
    if (!announced) return;
    document.getElementById("announcement").textContent = names.length
      ? `Shown: ${names.join(", ")}`
      : "No unit is shown.";
    // On a phone the cards stand below the grid, where nobody would see that something happened.
    if (this.#cardsPlace.getBoundingClientRect().top > 0.8 * window.innerHeight) this.#cardsPlace.scrollIntoView();
  }

  #press(event) {
    const typing = event.target.matches("input[type=search], select, textarea");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      this.#search.focus();
    } else if (event.key === "Enter" && event.shiftKey && event.target.dataset.unit) {
      event.preventDefault();
      this.#address.compare(event.target.dataset.unit);
    } else if (event.key === "Escape") {
      if (this.#search.clear()) return;
      const last = this.#address.state.units.at(-1);
      if (last !== undefined) this.#address.close(last);
      this.#grid.focus(last);
    }
  }
}

function lead(contents) {
  const kinds = { head: "head", mlp: "MLP" };
  const counts = Object.entries(kinds).map(([kind, noun]) => [
    contents.units.filter((unit) => unit.kind === kind).length,
    noun,
  ]);
  const units = counts
    .filter(([n]) => n > 0)
    .map(([n, noun]) => counted(n, noun))
    .join(" and ");
  const model = contents.title.includes(contents.model) ? "" : `${contents.model}: `;
  return `${model}${units}, each of which adds a term to the image embedding.`;
}

function facts(contents) {
  const pairs = Object.entries(contents.facts).flatMap(([name, text]) => [
    element("dt", {}, name),
    element("dd", {}, text),
  ]);
  return folded("How this was made", element("dl", {}, pairs));
}

new App(new Contents(JSON.parse(document.getElementById("atlas").textContent)));
performance.mark("interactive");
