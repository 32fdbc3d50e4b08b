// The atlas that came with the page, and questions about it.

/** Chance does as well as a description in at most this share of draws, for it to mean something. */
const SIGNIFICANT = 0.05;

class Contents {
  constructor(atlas) {
    Object.assign(this, atlas);
    this.byName = new Map(this.units.map((unit) => [unit.name, unit]));
    this.heads = this.units.filter((unit) => unit.kind === "head");
    this.byKey = new Map(this.measures.map((measure) => [measure.key, measure]));
    this.taskByName = new Map(this.tasks.map((task, place) => [task.name, place]));
    this.taskLabels = shortened(this.tasks.map((task) => task.name));
    /** For each task, the heads whose loss takes most of its contrast, the first being the one that carries it. */
    this.carriers = this.tasks.map((_, task) => this.rankedByLoss(task));
    this.families = familiesOf(this.measures);
    /** Behind what is said of all heads: a page may have but some of them. */
    this.shown = this.units.length < this.n_layers * (this.n_heads + 1) ? " (of those on this page)" : "";
    this.mostComponents = Math.max(1, ...this.units.map((unit) => unit.components.length));
  }

  /** What taking a unit out does to a task; null where it was not measured. */
  effect(unit, task) {
    return unit.effects.find((effect) => effect.task === task) ?? null;
  }

  rankedByLoss(task) {
    const lost = (unit) => this.effect(unit, task)?.contrast ?? null;
    return this.heads.filter((unit) => lost(unit) !== null).sort((a, b) => lost(b) - lost(a));
  }

  /** Heads that the images do not tell from a task's first: within two standard errors of the difference. */
  rivals(task) {
    const [first, ...others] = this.carriers[task].map((unit) => this.effect(unit, task));
    const error = (one) => one.contrast_error ?? 0;
    const near = (one) => first.contrast - one.contrast <= 2 * Math.hypot(error(first), error(one));
    return this.carriers[task].slice(1).filter((_, i) => near(others[i]));
  }

  /** The share of a task's contrast that all units of a kind hold together. */
  heldBy(kind, task) {
    const units = this.units.filter((unit) => unit.kind === kind);
    return units.reduce((sum, unit) => sum + (this.effect(unit, task)?.contrast ?? 0), 0);
  }

  /** Values of a measure where it is defined. */
  values(measure, units) {
    return units.map((unit) => unit.measures[measure.key]).filter((value) => value != null);
  }

  /**
   * Smallest and largest value of a measure over heads, around zero alike where zero is the middle. MLPs, which are few
   * and often far from all heads, do not stretch it.
   */
  range(measure) {
    const ofHeads = this.values(measure, this.heads);
    const values = ofHeads.length ? ofHeads : this.values(measure, this.units);
    if (values.length === 0) return [0, 1];
    const [low, high] = extent(values, values[0]);
    if (!measure.diverging) return low < high ? [low, high] : [low - 0.5, low + 0.5];
    const most = Math.max(-low, high) || 1;
    return [-most, most];
  }

  /** Which place a unit has among those of its kind, the largest value being first; null without a value. */
  rank(unit, measure) {
    const value = unit.measures[measure.key];
    if (value == null) return null;
    const others = this.units.filter((other) => other.kind === unit.kind && other.measures[measure.key] != null);
    return { place: 1 + others.filter((other) => other.measures[measure.key] > value).length, of: others.length };
  }

  /** The measure that shows which units carry a task, if the atlas has one. */
  measureOfTask(task) {
    return this.byKey.has(`contrast:${task}`) ? `contrast:${task}` : null;
  }
}

/**
 * Measures of one family, such as "contrast:0" and "contrast:1", under what their names have in common; the others
 * under the group they belong to.
 */
function familiesOf(measures) {
  const familyOf = ({ key }) => key.split(":")[0];
  const kin = (measure) => measures.filter((other) => familyOf(other) === familyOf(measure));
  const families = new Map();
  for (const measure of measures) {
    const alike = kin(measure);
    const single = alike.length === 1;
    const id = single ? `group ${measure.group}` : familyOf(measure);
    if (!families.has(id))
      families.set(id, { single, title: single ? measure.group : commonStart(alike), measures: [] });
    families.get(id).measures.push(measure);
  }
  return [...families.values()];
}

/** The words with which all names begin: "Contrast lost" of "Contrast lost: colour" and "Contrast lost: shape". */
function commonStart(measures) {
  const [first, ...others] = measures.map((measure) => measure.name.split(" "));
  const n = first.findIndex((word, i) => others.some((other) => other[i] !== word));
  return first
    .slice(0, n < 0 ? first.length : n)
    .join(" ")
    .replace(/:$/, "");
}

/** Names without what stands before a colon, where they still differ: "attributes:colour" is "colour". */
function shortened(names) {
  const short = names.map((name) => name.slice(name.lastIndexOf(":") + 1));
  return short.map((name, i) => (short.filter((other) => other === name).length === 1 ? name : names[i]));
}

/** Smallest and largest of some numbers, and of one more that is always within; what is null does not count. */
function extent(values, within) {
  return values
    .filter((value) => value !== null)
    .reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [within, within]);
}
