// The live page: one stream, closed while the page is hidden.

const MAX_ROWS = 200;
const box = document.getElementById("live");
const rows = document.getElementById("live-rows");
const state = document.getElementById("live-state");
const pause = document.getElementById("live-pause");
let source = null;
let isPaused = false;
let hidden = 0;
let lost = 0;

function describeState(text) {
  const notes = [isPaused ? "Paused" : text];
  if (hidden > 0) notes.push(`${hidden} not shown`);
  if (lost > 0) notes.push(`${lost} lost: the connection is slow`);
  state.textContent = notes.join(" · ");
}

function addRow(status, cells) {
  if (isPaused) {
    hidden += 1;
    describeState();
    return;
  }
  const row = document.createElement("tr");
  for (const [n, cell] of cells.entries()) {
    const td = document.createElement("td");
    if (cell instanceof Node) td.append(cell);
    else td.textContent = cell ?? "–";
    if (n === 1) td.className = `status ${status}`;
    if (n === 4) td.className = "number";
    row.append(td);
  }
  rows.prepend(row);
  while (rows.children.length > MAX_ROWS) rows.lastChild.remove();
}

function linkSite(id, text) {
  if (!id) return text;
  const link = document.createElement("a");
  link.href = `/sites/${id}`;
  link.textContent = text;
  return link;
}

const timeOf = (text) => (text ?? "").slice(11, 19);
const formatTime = (micros) => (micros == null ? "–" : `${(micros / 1000).toFixed(1)} ms`);

function addResult(event) {
  const result = JSON.parse(event.data);
  addRow(result.outcome, [
    timeOf(result.scheduled_at), result.outcome, result.region, linkSite(result.site_id, result.url),
    formatTime(result.timing?.total_us), result.message ?? result.cause ?? "",
  ]);
}

function addEvent(event) {
  const data = JSON.parse(event.data);
  addRow("", [timeOf(data.at ?? data.opened_at), data.event, data.region ?? (data.regions ?? []).join(", "),
    linkSite(data.site_id, data.site ?? data.url ?? ""), "–", data.message ?? ""]);
}

function open() {
  source = new EventSource(box.dataset.stream);
  source.onopen = () => describeState("Connected");
  source.onerror = () => describeState("Disconnected");
  source.addEventListener("result", addResult);
  for (const name of ["incident", "warning", "region"]) source.addEventListener(name, addEvent);
  source.addEventListener("lagged", (event) => {
    lost += Number(JSON.parse(event.data).lost) || 1;
    describeState("Connected");
  });
  source.addEventListener("bus", (event) => {
    describeState(JSON.parse(event.data).connected ? "Connected" : "NATS is away");
  });
  source.addEventListener("closed", () => { source.close(); describeState("The session has ended"); });
}

pause.hidden = false;
pause.addEventListener("click", () => {
  isPaused = !isPaused;
  if (!isPaused) hidden = 0;
  pause.textContent = isPaused ? "Resume" : "Pause";
  describeState("Connected");
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else open();
});
describeState("Connecting");
open();
