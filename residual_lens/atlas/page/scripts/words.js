// A unit's description, and whether it says more than chance would.

/** So many texts are a unit's label, which is what is compared with chance. */
const LABEL = 5;

function wordsSection(unit) {
  if (unit.description.length === 0) {
    return section("In words", note("There is no description: the atlas was made without texts."));
  }
  const items = unit.description.map(saidItem);
  const more = items.slice(LABEL);
  const heads = ["text", "adds", "explained"].map((text) => element("span", {}, text));
  return section(
    "In words",
    verdict(unit),
    element("p", { className: "words-head muted", "aria-hidden": "true" }, heads),
    element("ol", { className: "words" }, items.slice(0, LABEL)),
    more.length ? folded(`${counted(more.length, "further text")}`, element("ol", { className: "words" }, more)) : null,
  );
}

function saidItem(said) {
  return element(
    "li",
    {},
    element("span", { className: "text" }, said.text),
    element("meter", {
      min: 0,
      max: 1,
      value: Math.abs(said.weight),
      "aria-label": `adds ${number(said.weight, 2)} of the most`,
    }),
    element("span", { className: "figure" }, percent(said.explained, 0)),
  );
}

function verdict(unit) {
  if (unit.p_value === null) return null;
  const good = unit.p_value <= SIGNIFICANT;
  const [explained, byChance] = [percent(unit.explained, 0), percent(unit.explained_by_chance, 0)];
  return element(
    "p",
    { className: good ? "verdict good" : "verdict" },
    element("strong", {}, good ? "Better than chance" : "No better than chance: the words may be luck"),
    `. The first ${Math.min(LABEL, unit.description.length)} explain ${explained} of its variance, `,
    `random ones ${byChance} (p\u00a0=\u00a0${number(unit.p_value, 3)}); coherence ${number(unit.coherence, 2)}.`,
  );
}
