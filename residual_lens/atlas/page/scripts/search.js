// The field that finds units by a word, and what it found.

/** So many results are listed at most; the grid marks them all. */
const MOST_RESULTS = 40;

const NOTHING = "It is not among this page’s texts, tasks and classes.";

class SearchPanel {
  #address;
  #input;
  #count = element("p", { className: "muted", role: "status" });
  #list = element("ol", { tabIndex: 0, "aria-label": "Found units", hidden: true });
  #found = null;
  #links = [];

  constructor(place, address) {
    this.#address = address;
    this.#input = element("input", {
      type: "search",
      id: "word",
      placeholder: "colour, red, stripes …",
      autocomplete: "off",
      spellcheck: false,
    });
    const label = element("label", { for: "word" }, "Find units by a word ", element("kbd", {}, "/"));
    fill(place, label, this.#input, element("div", { className: "results" }, this.#count, this.#list));
    place.addEventListener("keydown", (event) => this.#move(event));
    this.#input.addEventListener("input", () => address.change({ search: this.#input.value }, { passing: true }));
  }

  /** Arrows go from the field to the results, along them, and back; Enter opens the one that has the focus. */
  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    const stops = [this.#input, ...this.#links.map(({ link }) => link)];
    const next = stops.indexOf(event.target) + step;
    if (!stops.includes(event.target) || !(next in stops)) return;
    event.preventDefault();
    stops[next].focus();
  }

  focus() {
    this.#input.focus();
    this.#input.select();
  }

  /** Whether there was a word to forget. */
  clear() {
    if (this.#address.state.search === "") return false;
    this.#address.change({ search: "" });
    return true;
  }

  /** Shows what was found, null standing for no question; links keep the rest of what is chosen. */
  show({ search: question, units, pinned }, found) {
    if (this.#input.value !== question) this.#input.value = question;
    if (found !== this.#found) this.#fill(found);
    for (const { link, name } of this.#links) {
      link.href = this.#address.link(units.includes(name) ? {} : { units: [...pinned, name] });
    }
  }

  #fill(found) {
    this.#found = found;
    const some = found?.length ? `${counted(found.length, "unit")}, best first` : NOTHING;
    this.#count.textContent = found === null ? "" : some;
    this.#links = (found ?? []).slice(0, MOST_RESULTS).map(({ unit, evidence }) => {
      const link = element("a", {}, unit.name);
      return { link, name: unit.name, why: evidence.map((one) => one.text).join(" · ") };
    });
    fill(
      this.#list,
      this.#links.map(({ link, why }) => element("li", { title: why }, link, ` ${why}`)),
    );
    this.#list.hidden = this.#links.length === 0;
  }
}
