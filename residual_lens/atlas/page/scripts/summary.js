// Above everything: which head carries what, and what happens without it.

const SAID =
  " without which a task loses most contrast (how far the right class is ahead of the others); accuracy with and " +
  "without it. ±: standard error; “or”: heads that other images may put first, since they are within two standard " +
  "errors of the difference";

class Summary {
  #contents;
  #address;
  #links = [];

  constructor(place, contents, address) {
    this.#contents = contents;
    this.#address = address;
    const items = contents.carriers.flatMap(([unit], task) => (unit ? [this.#item(unit, task)] : []));
    if (items.length === 0) return;
    const heads = ["head", "contrast", "accuracy"].map((text) => element("span", {}, text));
    fill(
      place,
      element("h2", { id: "summary-title" }, "Which head carries …"),
      element("div", { className: "heads muted", "aria-hidden": "true" }, heads),
      element("ul", {}, items),
      element(
        "p",
        { className: "note muted" },
        `The head${contents.shown}${SAID}.`,
        element("span", { className: "rest" }, ` Last line: what all heads and all MLPs${contents.shown} hold of it.`),
      ),
    );
  }

  #item(unit, place) {
    const contents = this.#contents;
    const [task, effect] = [contents.tasks[place], contents.effect(unit, place)];
    const names = alternatives([unit, ...contents.rivals(place)].map((one) => one.name));
    const [heads, mlps] = ["head", "mlp"].map((kind) => percent(contents.heldBy(kind, place), 0));
    const worded = (className, word, text) =>
      element("span", { className }, element("span", { className: "word" }, ` ${word} `), text);
    const link = element(
      "a",
      {},
      element("span", {}, `${contents.taskLabels[place]}? `, element("strong", {}, names)),
      worded("lost", "contrast", withError(-effect.contrast, effect.contrast_error)),
      worded("accuracy muted", "accuracy", beforeAfter(task.accuracy, effect.accuracy)),
      element("span", { className: "rest muted" }, ` heads ${heads}, MLPs ${mlps}`),
    );
    this.#links.push({ link, unit: unit.name, task: task.name, measure: contents.measureOfTask(place) });
    return element("li", {}, link);
  }

  /** Follows what is chosen: links keep the rest of it. */
  show(state) {
    for (const { link, unit, task, measure } of this.#links) {
      const choices = { units: [unit], pinned: [], task, measure: measure ?? state.measure };
      link.href = this.#address.link(choices);
      link.setAttribute("aria-current", String(state.task === task && state.units.includes(unit)));
    }
  }
}
