// One token's vectors to scale: x = Sae(x) + linear + nonlinear.
import { draw, make, number } from "./dom.js";

const NAMES = ["x", "Sae(x)", "error", "linear", "nonlinear"];
const CLASSES = ["x", "explained", "error", "linear", "nonlinear"];

/**
 * The four corners. Sae(x) and the error are two sides of a triangle on x, linear and nonlinear two sides of one on the error.
 * The second is unfolded into the plane of the first, so every length is exact, and every angle inside a triangle.
 */
export function corners({ norms, cosines }) {
  const [x, sae, , linear] = norms, angle = (i, j) => Math.acos(Math.max(-1, Math.min(1, cosines[i][j])));
  const o = [0, 0], end = [x, 0], turn = angle(0, 1);
  const tip = [sae * Math.cos(turn), sae * Math.sin(turn)];
  const along = Math.atan2(end[1] - tip[1], end[0] - tip[0]) + angle(2, 3); // away from the first triangle
  return { o, end, tip, bend: [tip[0] + linear * Math.cos(along), tip[1] + linear * Math.sin(along)] };
}

function arrow(from, to, part, label) {
  const group = draw("g", { class: `dmx-arrow dmx-${part}` });
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]) || 1, unit = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
  const head = Math.min(9, length), base = [to[0] - head * unit[0], to[1] - head * unit[1]], half = [-unit[1] * head / 2.6, unit[0] * head / 2.6];
  group.append(draw("line", { x1: from[0], y1: from[1], x2: base[0], y2: base[1] }));
  group.append(draw("polygon", { points: [to, [base[0] + half[0], base[1] + half[1]], [base[0] - half[0], base[1] - half[1]]].map((p) => p.join(",")).join(" ") }));
  group.append(draw("title", {}, label));
  if (length > 40) group.append(sideLabel(from, to, part === "error" ? unit.map((value) => -value) : unit, label.split(":")[0]));
  return group;
}

/** A name beside the middle of an arrow, on the left of the direction that is given. */
function sideLabel(from, to, [a, b], name) {
  const at = [(from[0] + to[0]) / 2 + 7 * b, (from[1] + to[1]) / 2 - 7 * a];
  const anchor = b > 0.5 ? "start" : b < -0.5 ? "end" : "middle";
  return draw("text", { x: at[0], y: at[1] + (Math.abs(b) > 0.5 ? 4 : 0), "text-anchor": anchor }, name);
}

/** The picture, and a table of norms and angles beside it. */
export function vectorPicture(view) {
  const { o, end, tip, bend } = corners(view), points = [o, end, tip, bend], wide = 340;
  const left = Math.min(...points.map((p) => p[0])), right = Math.max(...points.map((p) => p[0]));
  const low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[1]));
  const scale = Math.min(wide / (right - left || 1), 230 / (high - low || 1));
  const place = ([a, b]) => [12 + (a - left) * scale, 22 + (high - b) * scale];
  const height = 40 + (high - low) * scale, said = NAMES.map((name, i) => `${name} ${number(view.norms[i])}`).join(", ");
  const picture = draw("svg", { viewBox: `0 0 ${wide + 84} ${height}`, class: "dmx-picture", role: "img", "aria-label": `Lengths to scale: ${said}` });
  const sides = [[o, end, 0], [o, tip, 1], [tip, end, 2], [tip, bend, 3], [bend, end, 4]];
  for (const [from, to, i] of sides) picture.append(arrow(place(from), place(to), CLASSES[i], `${NAMES[i]}: ${number(view.norms[i])}`));
  return make("div", { className: "dmx-vectors" }, picture, angleTable(view));
}

function angleTable({ norms, cosines }) {
  const degrees = (cosine) => `${Math.round((Math.acos(Math.max(-1, Math.min(1, cosine))) * 180) / Math.PI)}°`;
  const swatch = (i) => make("i", { className: `dmx-swatch dmx-${CLASSES[i]}` });
  const head = make("tr", {}, make("th", { scope: "col" }, "vector"), make("th", { scope: "col" }, "norm"),
    make("th", { scope: "col" }, "angle to x"), make("th", { scope: "col" }, "to the error"));
  const rows = NAMES.map((name, i) => make("tr", {}, make("th", { scope: "row" }, swatch(i), ` ${name}`), make("td", {}, number(norms[i])),
    make("td", {}, i === 0 ? "" : degrees(cosines[0][i])), make("td", {}, i === 2 ? "" : degrees(cosines[2][i]))));
  return make("table", { className: "dmx-table dmx-angles" }, make("thead", {}, head), make("tbody", {}, ...rows));
}
