// Everything about one unit.

class Card {
  #contents;
  #unit;
  #effects;
  #directions;
  #numbers;
  #pin;
  #spectrum = element("div", {});
  #charts = new Map();
  #shown = new Map();

  constructor(unit, contents, address) {
    this.#contents = contents;
    this.#unit = unit;
    this.#effects = new EffectsSection(unit, contents, address);
    this.#directions = new DirectionsSection(unit, contents, address);
    this.#numbers = new NumbersSection(unit, contents, address);
    this.#pin = element("button", { type: "button", className: "pin", "aria-label": `Pin ${unit.name} to compare` });
    this.#pin.addEventListener("click", () => address.pin(unit.name));
    const close = element("button", { type: "button", className: "close", "aria-label": `Close ${unit.name}` }, "×");
    close.addEventListener("click", () => address.close(unit.name));
    this.element = element(
      "article",
      { className: "card", "aria-label": unit.name },
      element(
        "header",
        {},
        element("h2", {}, unit.name),
        element("p", { className: "muted" }, placeOf(unit)),
        this.#pin,
        close,
      ),
      element("p", { className: "finding" }, finding(unit, contents)),
      element("div", { className: "words-part" }, wordsSection(unit)),
      element("div", { className: "effects-part" }, this.#effects.element),
      element("div", { className: "directions-part" }, this.#directions.element),
      element("div", { className: "spectrum-part" }, this.#spectrumSection(), this.#scalesSection()),
      element("div", { className: "numbers-part" }, this.#numbers.element),
    );
  }

  #spectrumSection() {
    return section("Spectrum", this.#spectrum, note(capital(spectrumSaid(this.#unit))));
  }

  #scalesSection() {
    if (this.#unit.scales === null) return null;
    const place = element("div", {});
    this.#chart("scales", place, scalesChart(this.#unit, this.#contents.scale_start, scalesRange(this.#contents)));
    const title = this.#unit.scales_before === null ? "λ after training" : "λ before (○) and after (●) training";
    return section(title, place, note(capital(scalesSaid(this.#unit, this.#contents.scale_start))));
  }

  #chart(name, place, chart) {
    this.#charts.get(name)?.destroy();
    this.#charts.set(name, chart);
    fill(place, chart.element);
  }

  /** Follows what is chosen; `top` is where the scale of shares of variance ends, for all cards alike. */
  show(state, top) {
    const { task, component, measure, attention } = state;
    this.#follow("task", task, () => this.#effects.show(task));
    this.#follow("component", component, () => this.#directions.show(component));
    this.#follow("measure", measure, () => this.#numbers.show(measure));
    this.#follow("attention", attention, () => this.#directions.showAttention(attention));
    this.#follow("pinned", state.pinned.includes(this.#unit.name), (pinned) => {
      this.#pin.setAttribute("aria-pressed", String(pinned));
      this.#pin.textContent = pinned ? "Pinned" : "Pin to compare";
    });
    this.#follow("spectrum", `${component} ${top}`, () => {
      if (this.#unit.spectrum.length === 0) return;
      this.#chart(
        "spectrum",
        this.#spectrum,
        spectrumChart(this.#unit, Math.min(component, this.#unit.components.length) - 1, top),
      );
    });
  }

  /** Draws a part of the card if what it depends on has changed: what a reader opened or scrolled stays as it is. */
  #follow(part, value, draw) {
    if (this.#shown.get(part) === value) return;
    this.#shown.set(part, value);
    draw(value);
  }

  destroy() {
    this.#charts.forEach((chart) => chart.destroy());
    this.element.remove();
  }
}

/** One sentence: what the unit matters for most. */
function finding(unit, contents) {
  const measured = unit.effects.filter((effect) => effect.contrast !== null);
  if (measured.length === 0) return "";
  const most = measured.reduce((best, effect) => (effect.contrast > best.contrast ? effect : best));
  const [task, label] = [contents.tasks[most.task], contents.taskLabels[most.task]];
  if (most.contrast < LEAST_LOSS) return "No task loses as much as 1 % of its contrast without it.";
  const loss = `Without it ${label} loses ${withError(most.contrast, most.contrast_error)} of its contrast`;
  const leaders = [contents.carriers[most.task][0], ...contents.rivals(most.task)];
  const rank = leaders.includes(unit) ? `, ${rankAmong(leaders, unit)}${contents.shown}` : "";
  return `${loss}${rank}; accuracy ${beforeAfter(task.accuracy, most.accuracy)}.`;
}

/** How a unit stands among those that may carry a task most. */
function rankAmong(leaders, unit) {
  const others = leaders.filter((one) => one !== unit).map((one) => one.name);
  if (others.length === 0) return "more than without any other head";
  return `about as much as without ${others.length > 3 ? `${others.length} other heads` : alternatives(others)}`;
}

/** One range for λ of all units, so that cards can be compared. */
function scalesRange(contents) {
  const values = contents.units.flatMap((unit) => [...(unit.scales ?? []), ...(unit.scales_before ?? [])]);
  const [low, high] = extent(values, contents.scale_start);
  const margin = 0.06 * (high - low) || 0.1;
  return [low - margin, high + margin];
}
