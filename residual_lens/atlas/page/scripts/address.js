// The address bar keeps everything that a reader chose, so that a link shows what its sender saw.

/** Reads and writes the part of the address behind "#"; what is not in it has its default. */
class Address {
  #contents;
  #listeners = [];

  constructor(contents) {
    this.#contents = contents;
    this.state = this.#read();
    // Links within the page, the back button and a changed address all arrive here.
    for (const event of ["hashchange", "popstate"]) {
      window.addEventListener(event, () => this.#arrive(this.#read()));
    }
  }

  get defaults() {
    const { measures, tasks, carriers, units } = this.#contents;
    return {
      measure: this.#contents.measureOfTask(0) ?? measures[0].key,
      units: [(carriers[0]?.[0] ?? units[0]).name],
      pinned: [],
      task: tasks[0]?.name ?? "",
      component: 1,
      search: "",
      attention: 50,
    };
  }

  /** Calls a function at each change with what is chosen and what was before. */
  whenChanged(listener) {
    this.#listeners.push(listener);
  }

  /** Chooses something; `passing` choices (each letter of a search) leave no step for the back button. */
  change(choices, { passing = false } = {}) {
    const next = { ...this.state, ...choices };
    const address = this.link(next);
    if (passing) history.replaceState(null, "", address);
    else if (address !== this.link(this.state)) history.pushState(null, "", address);
    this.#arrive(next);
  }

  /** Shows a unit in place of those that are not pinned. */
  open(name) {
    const { units, pinned } = this.state;
    if (!units.includes(name)) this.change({ units: [...pinned, name] });
  }

  /** Shows a unit beside all that are shown, which are pinned by that; or takes it away. */
  compare(name) {
    const { units } = this.state;
    if (units.includes(name)) this.close(name);
    else this.change({ units: [...units, name], pinned: units });
  }

  close(name) {
    const without = (names) => names.filter((one) => one !== name);
    this.change({ units: without(this.state.units), pinned: without(this.state.pinned) });
  }

  /** A pinned unit stays when another one is opened. */
  pin(name) {
    const { units, pinned } = this.state;
    this.change({ pinned: units.filter((one) => pinned.includes(one) !== (one === name)) });
  }

  /** The address of the page with other choices than the present ones. */
  link(choices) {
    const defaults = this.defaults;
    const parts = Object.entries({ ...this.state, ...choices })
      .filter(([key, value]) => String(value) !== String(defaults[key]))
      .map(([key, value]) => `${key}=${encodeURIComponent(value).replaceAll("%2C", ",").replaceAll("%3A", ":")}`);
    return `#${parts.join("&")}`;
  }

  #arrive(next) {
    const before = this.state;
    this.state = next;
    if (JSON.stringify(before) !== JSON.stringify(next)) this.#listeners.forEach((listener) => listener(next, before));
  }

  /** What the address says; what it says wrongly, or of another atlas, has its default. */
  #read() {
    const { byKey, byName, taskByName, mostComponents } = this.#contents;
    const given = new URLSearchParams(location.hash.slice(1));
    const state = this.defaults;
    const take = (key, accepted, value = (text) => text) => {
      if (given.has(key) && accepted(given.get(key))) state[key] = value(given.get(key));
    };
    const within = (low, high) => (text) => /^\d{1,3}$/.test(text) && Number(text) >= low && Number(text) <= high;
    take("measure", (key) => byKey.has(key));
    take("task", (name) => taskByName.has(name));
    take("component", within(1, mostComponents), Number);
    take("attention", within(0, 100), Number);
    take("search", () => true);
    const names = (text) => [...new Set(text.split(","))].filter((name) => byName.has(name));
    take("units", (text) => text === "" || names(text).length > 0, names);
    take(
      "pinned",
      () => true,
      (text) => names(text).filter((name) => state.units.includes(name)),
    );
    return state;
  }
}
