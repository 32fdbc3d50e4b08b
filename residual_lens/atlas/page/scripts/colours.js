// Colours of values. Both scales keep their order for colour-blind people and in grey.

/** viridis (van der Walt and Smith 2015, CC0) at nine even places. */
const SEQUENTIAL = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];

/** From blue by the page's own middle to vermilion, the outer ones of Okabe and Ito's palette. */
const DIVERGING = {
  light: ["#00507f", "#0072b2", "#7fb4d6", "#efefec", "#eeb189", "#d55e00", "#8f3f00"],
  dark: ["#8fd0f5", "#3b9ad6", "#1f5578", "#34343a", "#834019", "#e0702a", "#ffb98a"],
};

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function scaleOf(measure) {
  if (!measure.diverging) return SEQUENTIAL;
  return dark.matches ? DIVERGING.dark : DIVERGING.light;
}

function channels(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

/** The colour at a place of a scale, 0 its start and 1 its end, as three channels of 0 to 255. */
function colourAt(scale, place) {
  const position = Math.min(1, Math.max(0, place)) * (scale.length - 1);
  const index = Math.min(scale.length - 2, Math.floor(position));
  const [from, to] = [channels(scale[index]), channels(scale[index + 1])];
  return from.map((channel, i) => Math.round(channel + (to[i] - channel) * (position - index)));
}

/** Relative luminance of WCAG 2. */
function luminance(rgb) {
  const [r, g, b] = rgb.map((channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Black or white, whichever is easier to read on a colour: at least 4.5 to 1 on any. */
function inkOn(rgb) {
  const light = luminance(rgb);
  return (light + 0.05) / 0.05 > 1.05 / (light + 0.05) ? "#000" : "#fff";
}

function css(rgb) {
  return `rgb(${rgb.join(" ")})`;
}
