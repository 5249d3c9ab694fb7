// Read-out of charts, and zoom by dragging. Without this module the same numbers are in the table under each chart, and
// the span is chosen with the form above it.

for (const figure of document.querySelectorAll("figure.chart")) {
  const svg = figure.querySelector("svg");
  const output = figure.querySelector("output");
  if (!svg || !output) continue;
  const hint = output.textContent;
  for (const rect of svg.querySelectorAll(".hits rect")) {
    const text = rect.querySelector("title")?.textContent ?? "";
    rect.addEventListener("pointerenter", () => { output.textContent = text; });
  }
  svg.addEventListener("pointerleave", () => { output.textContent = hint; });
  if (figure.dataset.from && figure.dataset.to) addZoom(figure, svg);
}

function addZoom(figure, svg) {
  const [from, to] = [Date.parse(figure.dataset.from), Date.parse(figure.dataset.to)];
  // Edges of the plot as parts of the drawing's width; see chart_frame.rs.
  const [left, right] = [54 / 960, 950 / 960];
  let start = null;
  let brush = null;
  const placeOf = (event) => {
    const box = svg.getBoundingClientRect();
    return Math.min(right, Math.max(left, (event.clientX - box.left) / box.width));
  };
  const timeOf = (place) => new Date(from + ((place - left) / (right - left)) * (to - from));
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch") return;
    start = placeOf(event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (start === null) return;
    const [a, b] = [start, placeOf(event)].sort((x, y) => x - y);
    if (!brush) {
      brush = document.createElement("div");
      brush.className = "brush";
      figure.append(brush);
    }
    brush.style.left = `${a * 100}%`;
    brush.style.width = `${(b - a) * 100}%`;
  });
  svg.addEventListener("pointerup", (event) => {
    const [a, b] = [start ?? 0, placeOf(event)].sort((x, y) => x - y);
    brush?.remove();
    [start, brush] = [null, null];
    if (b - a < 0.02) return;
    const url = new URL(location.href);
    url.searchParams.delete("span");
    url.searchParams.set("from", timeOf(a).toISOString());
    url.searchParams.set("to", timeOf(b).toISOString());
    location.assign(url);
  });
}
