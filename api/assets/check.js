// Answers of "check from everywhere" as they arrive. Without this module the form posts and the page shows all answers
// at once, with their waterfalls.

const form = document.getElementById("check-form");
const rows = document.getElementById("check-rows");
const state = document.getElementById("check-state");

function addAnswer(answer) {
  const result = answer.result;
  const outcome = result?.outcome ?? answer.state.replaceAll("_", " ");
  const total = result?.timing?.total_us;
  const cells = [
    answer.region, outcome, total == null ? "–" : `${(total / 1000).toFixed(1)} ms`, result?.http_status ?? "–",
    answer.message ?? result?.message ?? result?.cause ?? "",
  ];
  const row = document.createElement("tr");
  for (const [n, text] of cells.entries()) {
    const cell = document.createElement(n === 0 ? "th" : "td");
    cell.textContent = text;
    if (n === 0) cell.scope = "row";
    if (n === 1) cell.className = `status ${outcome}`;
    if (n === 2 || n === 3) cell.className = "number";
    row.append(cell);
  }
  rows.append(row);
  rows.closest("section").hidden = false;
}

async function readEvents(body, handle) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (field("data")) handle(field("event"), JSON.parse(field("data")));
    }
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const data = new FormData(form);
  const region = data.get("region");
  rows.replaceChildren();
  state.textContent = "Checking";
  try {
    const response = await fetch("/api/v1/checks", {
      method: "POST",
      headers: { "content-type": "application/json", accept: "text/event-stream" },
      body: JSON.stringify({ url: data.get("url").trim(), ...(region ? { regions: [region] } : {}) }),
    });
    if (!response.ok) {
      state.textContent = (await response.json()).detail;
      return;
    }
    await readEvents(response.body, (name, answer) => {
      if (name === "reply") addAnswer(answer);
      if (name === "end") state.textContent = answer.error ?? `${answer.regions} regions asked`;
    });
  } catch {
    form.submit();
  }
});
