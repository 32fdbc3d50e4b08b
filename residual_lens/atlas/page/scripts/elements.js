// Building the page. Data become text nodes, never markup.

/** A new element: properties are set on it, `aria-*`, `role` and `data-*` as attributes; null children are left out. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (/^(aria-|data-|role$|for$|scope$|colspan$)/.test(name)) made.setAttribute(name, value);
    else if (name.startsWith("--")) made.style.setProperty(name, value);
    else made[name] = value;
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

/** Replaces what an element holds. */
function fill(parent, ...children) {
  parent.replaceChildren(...children.flat().filter((child) => child !== null));
}

/** "12.3" with a true minus sign, so that columns of numbers align; "–" where there is none. */
function number(value, digits) {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

/** A share as "12.3 %", which no line break parts. */
function percent(share, digits = 1) {
  return share === null ? "–" : `${number(100 * share, digits)}\u00a0%`;
}

/** "5.6 ± 0.2 %", a share with its standard error, unless that is less than what is rounded off. */
function withError(share, error) {
  return error === null || error < 0.0005 ? percent(share) : `${number(100 * share, 1)}\u00a0±\u00a0${percent(error)}`;
}

/** Two shares as "99.4 → 81.0 %"; where both read alike, "stays 99.4 %". */
function beforeAfter(before, after) {
  return percent(before) === percent(after)
    ? `stays ${percent(before)}`
    : `${number(100 * before, 1)} → ${percent(after)}`;
}

/** "head 4 of layer 4" or "MLP of layer 4". */
function placeOf(unit) {
  return unit.kind === "head" ? `head ${unit.column} of layer ${unit.layer}` : `MLP of layer ${unit.layer}`;
}

/** The class of a cell with a text: one with a word that is longer than a column may be broken anywhere. */
function classOfCell(text) {
  return /\S{17}/.test(text) ? "breakable" : "";
}

/** "1 image", "2 images". */
function counted(n, noun) {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

/** "L5H3", "L5H3 or L5H1", "L5H3, L5H1 or L4H0"; of more than three "L5H3 or 4 others". */
function alternatives([first, ...others]) {
  if (others.length > 2) return `${first} or ${others.length} others`;
  const last = others.pop();
  return last === undefined ? first : `${[first, ...others].join(", ")} or ${last}`;
}

/** A part of a card with its heading. */
function section(title, ...children) {
  return element("section", { "aria-label": title }, element("h3", {}, title), ...children);
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

/** A small line below something. */
function note(text) {
  return element("p", { className: "note muted" }, text);
}

/** What is seen only once its title is clicked. */
function folded(title, ...children) {
  return element("details", {}, element("summary", {}, title), ...children);
}
