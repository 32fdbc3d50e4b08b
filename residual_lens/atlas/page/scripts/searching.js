// Which units a word is about. Nothing here touches the page.

/** What people may type for what the atlas says. */
const SPELLINGS = new Map([
  ["color", "colour"],
  ["colors", "colour"],
  ["gray", "grey"],
]);

/** A word without the ending that a plural or a participle has: "stripes" and "striped" both begin with "strip". */
function stem(word) {
  const plain = SPELLINGS.get(word) ?? word;
  for (const ending of ["ing", "es", "ed", "s"]) {
    const rest = plain.slice(0, -ending.length);
    if (plain.endsWith(ending) && rest.length >= (ending === "s" ? 3 : 4)) return rest;
  }
  return plain;
}

function wordsOf(text) {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}

/** Whether each word that is asked for begins a word of a text. */
function answers(text, stems) {
  const words = wordsOf(text);
  return stems.every((one) => words.some((word) => word.startsWith(one)));
}

/** Whether a text names a class: has its words, or is its name where that is but a letter or two. */
function names(text, className) {
  const [words, wanted] = [wordsOf(text), wordsOf(className)];
  if (className.length < 3) return words.join(" ") === wanted.join(" ");
  return wanted.length > 0 && wanted.every((one) => words.includes(one));
}

/**
 * Units that some words are about, best first, and why.
 *
 * A unit's score is a sum of shares: of its variance that matching texts of its description explain; of a matching
 * task's (or class') contrast that is lost without it; and of the variance of components with matching texts at an end,
 * times the share of these texts that match, by half, since any direction has some text that is nearest. Where a task's
 * name matches, so do the names of its classes: "colour" finds "red".
 */
function search(contents, question) {
  const stems = wordsOf(question).map(stem);
  if (stems.length === 0) return [];
  const tasks = contents.taskLabels.map((name) => answers(name, stems));
  const classes = contents.tasks.map((task) => task.classes.map((name) => answers(name, stems)));
  const kin = contents.tasks.filter((_, i) => tasks[i]).flatMap((task) => task.classes);
  const matches = (text) => answers(text, stems) || kin.some((name) => names(text, name));
  return contents.units
    .map((unit) => {
      const evidence = [saidOf(unit, matches), ...lossesOf(contents, unit, tasks, classes), endsOf(unit, matches)];
      const found = evidence.filter((one) => one !== null);
      return { unit, score: found.reduce((sum, one) => sum + one.score, 0), evidence: found };
    })
    .filter(({ evidence }) => evidence.length > 0)
    .sort((a, b) => b.score - a.score);
}

function saidOf(unit, matches) {
  const gains = unit.description.map((said, i) => said.explained - (unit.description[i - 1]?.explained ?? 0));
  const places = unit.description.flatMap((said, i) => (matches(said.text) ? [i] : []));
  if (places.length === 0) return null;
  // Words that chance equals are shown, and count for nothing.
  const luck = unit.p_value !== null && unit.p_value > SIGNIFICANT;
  const score = luck ? 0 : places.reduce((sum, i) => sum + gains[i], 0);
  const texts = places.slice(0, 3).map((i) => unit.description[i].text);
  return { score, text: `says ${listed(texts, places.length)}${luck ? " (may be luck)" : ""}` };
}

/** Losses of at least one percent: what is smaller is no finding. */
const LEAST_LOSS = 0.01;

function lossesOf(contents, unit, tasks, classes) {
  return unit.effects.map((effect) => {
    const task = contents.tasks[effect.task];
    const label = contents.taskLabels[effect.task];
    if (tasks[effect.task]) {
      return effect.contrast < LEAST_LOSS
        ? null
        : { score: effect.contrast, text: `${label} −${percent(effect.contrast)}` };
    }
    const hurt = task.classes
      .map((name, i) => ({ name, loss: effect.contrasts[i] }))
      .filter(({ loss }, i) => classes[effect.task][i] && loss >= LEAST_LOSS)
      .sort((a, b) => b.loss - a.loss)[0];
    return hurt ? { score: hurt.loss, text: `${label} “${hurt.name}” −${percent(hurt.loss)}` } : null;
  });
}

function endsOf(unit, matches) {
  const found = unit.components
    .map((component, i) => {
      const texts = [...component.low_texts, ...component.high_texts];
      return { name: String(i + 1), score: (component.share * texts.filter(matches).length) / (2 * texts.length || 1) };
    })
    .filter(({ score }) => score > 0);
  if (found.length === 0) return null;
  const score = found.reduce((sum, one) => sum + one.score, 0);
  return {
    score,
    text: `ends of component ${listed(
      found.slice(0, 3).map(({ name }) => name),
      found.length,
    )}`,
  };
}

function listed(texts, total) {
  return texts.join(", ") + (total > texts.length ? ` and ${total - texts.length} more` : "");
}
