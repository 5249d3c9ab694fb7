// Answers of "check from everywhere" as they arrive, each the same part of the page that a reader without this module
// gets with all others at once.

const form = document.getElementById("check-form");
const answers = document.getElementById("answers");
const state = document.getElementById("check-state");

// Answers stand in the order of their regions, as on the page that is rendered at once.
function addAnswer(html) {
  const answer = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
  const next = [...answers.children].find((other) => other.id > answer.id);
  answers.insertBefore(document.adoptNode(answer), next ?? null);
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
  answers.replaceChildren();
  state.textContent = "Checking";
  let hasBegun = false;
  let hasEnded = false;
  try {
    const response = await fetch(form.action, {
      method: "POST",
      headers: { accept: "text/event-stream" },
      body: new URLSearchParams(new FormData(form)),
    });
    if (!response.ok) {
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      state.textContent = page.querySelector("main .panel p")?.textContent ?? "The check was refused";
      return;
    }
    await readEvents(response.body, (name, data) => {
      hasBegun = true;
      if (name === "reply") addAnswer(data);
      if (name === "end") {
        hasEnded = true;
        state.textContent = data;
      }
    });
  } catch {
    // The regions check already after the first event: another request would repeat their checks.
    if (!hasBegun) return form.submit();
  }
  if (!hasEnded) state.textContent = "The connection broke before all regions had replied";
});
