// "Without it": what a unit's loss does to each task, and to each class of the chosen one.

/** So many classes are shown at once, those that lose most first. */
const SHOWN_CLASSES = 10;

class EffectsSection {
  #contents;
  #address;
  #unit;
  #rows = new Map();
  #classes;

  constructor(unit, contents, address) {
    this.#contents = contents;
    this.#address = address;
    this.#unit = unit;
    this.#classes = element("div", {});
    this.element = unit.effects.length
      ? section("Without it", this.#tasks(), this.#classes)
      : section("Without it", note("No task was measured."));
  }

  #tasks() {
    const { tasks, taskLabels, units } = this.#contents;
    // One scale for all units, so that cards can be compared.
    const range = extent(
      units.flatMap((unit) => unit.effects.map((effect) => effect.contrast)),
      0,
    );
    const rows = this.#unit.effects.map((effect) => {
      const task = tasks[effect.task];
      const button = element("button", { type: "button", className: "choice" }, taskLabels[effect.task]);
      button.addEventListener("click", () => this.#address.change({ task: task.name }));
      const row = element(
        "tr",
        {},
        element("th", { scope: "row", className: classOfCell(taskLabels[effect.task]) }, button),
        ...lossCells(effect.contrast, range, task.accuracy, effect.accuracy),
      );
      this.#rows.set(task.name, { row, button });
      return row;
    });
    return element("table", { className: "effects" }, lossHead("task"), element("tbody", {}, rows));
  }

  /** Shows the classes of a task. */
  show(taskName) {
    if (this.#rows.size === 0) return;
    this.#rows.forEach(({ row, button }, name) => {
      row.classList.toggle("chosen", name === taskName);
      button.setAttribute("aria-pressed", String(name === taskName));
    });
    const place = this.#contents.taskByName.get(taskName);
    const effect = this.#contents.effect(this.#unit, place);
    if (effect === null) {
      fill(this.#classes);
      return;
    }
    const task = this.#contents.tasks[place];
    const all = this.#contents.units.flatMap((unit) => this.#contents.effect(unit, place)?.contrasts ?? []);
    const range = extent(all, 0);
    const rows = task.classes
      .map((name, i) => ({
        name,
        lost: effect.contrasts[i],
        before: task.class_accuracies[i],
        after: effect.classes[i],
      }))
      .filter(({ lost }) => lost !== null)
      .sort((a, b) => b.lost - a.lost)
      .map(({ name, lost, before, after }) => {
        const head = element("th", { scope: "row", className: classOfCell(name) }, name);
        return element("tr", {}, head, ...lossCells(lost, range, before, after));
      });
    const table = (some) => element("table", { className: "effects" }, lossHead("class"), element("tbody", {}, some));
    const rest = rows.slice(SHOWN_CLASSES);
    fill(
      this.#classes,
      element("h4", {}, `Classes of ${this.#contents.taskLabels[place]}`),
      table(rows.slice(0, SHOWN_CLASSES)),
      rest.length ? folded(`${rest.length} more`, table(rest)) : null,
      note(standardError(task)),
    );
  }
}

function lossHead(what) {
  const lost = element("th", { scope: "col", colspan: "2" }, "contrast lost");
  const [first, last] = [what, "accuracy, %"].map((text) => element("th", { scope: "col" }, text));
  return element("thead", {}, element("tr", {}, first, lost, last));
}

/** A bar from zero, what is lost to the right, with its number; and accuracy before and after. */
function lossCells(lost, [low, high], before, after) {
  const width = high - low || 1;
  // A class that the model never tells from the others has no contrast to lose.
  const bar =
    lost === null
      ? ""
      : element("i", {
          className: lost < 0 ? "gain" : "loss",
          "--start": `${(100 * (Math.min(0, lost) - low)) / width}%`,
          "--length": `${(100 * Math.abs(lost)) / width}%`,
        });
  const same = percent(before) === percent(after);
  const accuracy = same ? `${number(100 * before, 1)}` : `${number(100 * before, 1)} → ${number(100 * after, 1)}`;
  return [
    element("td", {}, element("div", { className: "track" }, bar)),
    element("td", { className: "figure" }, percent(lost)),
    element("td", { className: same ? "figure muted" : "figure" }, accuracy),
  ];
}

function standardError(task) {
  const error = Math.sqrt((task.accuracy * (1 - task.accuracy)) / task.n_images);
  const precision = error > 0 ? `, standard error of the accuracy ${number(100 * error, 1)} points` : "";
  return `${counted(task.n_images, "image")}${precision}.`;
}
