// Spectra and λ as charts (uPlot draws them on a canvas, so each has its finding in words as well).

/** A chart as wide as the element that holds it, in the colours of the page, by day and by night. */
class Chart {
  #place;
  #options;
  #data;
  #plot = null;
  #watch;

  /** `options(colour)` gives uPlot's options, `colour("ink")` a colour of the page. */
  constructor(label, options, data) {
    this.#options = options;
    this.#data = data;
    this.element = element("div", { className: "chart", role: "img", "aria-label": label });
    this.#place = this.element;
    this.#watch = new ResizeObserver(() => this.#fit());
    this.#watch.observe(this.#place);
    this.redraw = () => this.#draw();
    dark.addEventListener("change", this.redraw);
  }

  /** Must be called when the chart leaves the page. */
  destroy() {
    this.#watch.disconnect();
    dark.removeEventListener("change", this.redraw);
    this.#plot?.destroy();
  }

  #fit() {
    const width = Math.floor(this.#place.clientWidth);
    if (width === 0) return;
    if (this.#plot === null) this.#draw();
    else if (this.#plot.width !== width) this.#plot.setSize({ width, height: this.#plot.height });
  }

  #draw() {
    const width = Math.floor(this.#place.clientWidth);
    if (width === 0) return;
    this.#plot?.destroy();
    const styles = getComputedStyle(document.documentElement);
    const colour = (name) => styles.getPropertyValue(`--${name}`).trim();
    const shared = { width, height: 132, legend: { show: false }, cursor: { show: false }, padding: [8, 6, 0, 0] };
    this.#plot = new uPlot({ ...shared, ...this.#options(colour) }, this.#data, this.#place);
  }
}

/** An axis in the page's own type: few ticks, hair lines. */
function axis(colour, more) {
  const line = { stroke: colour("line"), width: 1 };
  return {
    stroke: colour("muted"),
    font: "11px system-ui, sans-serif",
    grid: line,
    ticks: { ...line, size: 4 },
    ...more,
  };
}

/** Components are counted from 1; a tick stands at whole numbers only. */
function componentAxis(colour) {
  return axis(colour, { size: 26, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] });
}

function componentScale(n) {
  return { time: false, range: [0.3, n + 0.7] };
}

/** Shares of variance as bars, the chosen component's in the accent colour. */
function spectrumChart(unit, chosen, top) {
  const shares = unit.spectrum.map((share) => 100 * share);
  const places = shares.map((_, i) => i + 1);
  const only = (keep) => shares.map((share, i) => (keep(i) ? share : null));
  const bars = uPlot.paths.bars({ size: [0.72, 18] });
  const label = `Spectrum of ${unit.name}: ${spectrumSaid(unit)}`;
  const options = (colour) => ({
    scales: { x: componentScale(shares.length), y: { range: [0, 100 * top] } },
    axes: [
      componentAxis(colour),
      axis(colour, { size: 42, values: (_, ticks) => ticks.map((tick) => `${number(tick, tick % 1 ? 1 : 0)} %`) }),
    ],
    series: [
      {},
      { paths: bars, fill: colour("bar"), width: 0, points: { show: false } },
      { paths: bars, fill: colour("accent"), width: 0, points: { show: false } },
    ],
  });
  return new Chart(label, options, [places, only((i) => i !== chosen), only((i) => i === chosen)]);
}

/** "the first component has 31.2 % of the variance, 90 % lie in 9 of 24". */
function spectrumSaid(unit) {
  const shares = unit.spectrum;
  if (shares.length === 0) return "it does not vary.";
  let sum = 0;
  const enough = shares.findIndex((share) => (sum += share) >= 0.9 - 1e-9);
  const reach =
    enough < 0
      ? `the ${shares.length} shown have ${percent(sum)}`
      : `${percent(0.9, 0)} lie in ${enough + 1} of ${shares.length}`;
  return `the first component has ${percent(shares[0])} of the variance, ${reach}.`;
}

/** λ of each component: a ring where training began, a dot where it ended, a line at the λ that changes nothing. */
function scalesChart(unit, start, range) {
  const places = unit.scales.map((_, i) => i + 1);
  const options = (colour) => ({
    scales: { x: componentScale(places.length), y: { range } },
    axes: [componentAxis(colour), axis(colour, { size: 42 })],
    series: [
      {},
      { stroke: colour("line"), width: 1.5, dash: [4, 3], points: { show: false } },
      {
        paths: () => null,
        points: { show: true, size: 6, width: 1.25, stroke: colour("muted"), fill: colour("surface") },
      },
      { paths: () => null, points: { show: true, size: 6, width: 0, fill: colour("accent") } },
    ],
  });
  const before = unit.scales_before ?? places.map(() => null);
  const label = `λ of ${unit.name}: ${scalesSaid(unit, start)}`;
  return new Chart(label, options, [places, places.map(() => start), before, unit.scales]);
}

/** Which component training changed most, if any; the λ that changes nothing stands for a start that is not known. */
function scalesSaid(unit, start) {
  const before = unit.scales_before ?? unit.scales.map(() => start);
  const changes = unit.scales.map((scale, i) => Math.abs(scale - before[i]));
  const most = changes.indexOf(Math.max(...changes));
  const from = number(before[most], 2);
  const to = number(unit.scales[most], 2);
  if (from === to) {
    return unit.scales_before === null
      ? `none is as far as 0.01 from ${from}.`
      : "they are where they began: none moved by as much as 0.01.";
  }
  return unit.scales_before === null
    ? `component ${most + 1} is furthest from ${from}: ${to}.`
    : `component ${most + 1} changed most, from ${from} to ${to}.`;
}
