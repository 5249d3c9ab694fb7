// Local times beside UTC, and parts of a page that stay current. A page is complete without this module.

const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

function addLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime())) time.title = local.format(at);
  }
}

let freshAt = new Date();
let staleNote = null;

// Says above the content since when the page is stale, and why. Without a reason the note is removed.
function showStaleness(reason) {
  if (!reason) staleNote?.remove();
  else if (!staleNote?.isConnected) {
    staleNote = Object.assign(document.createElement("p"), { id: "stale", className: "notice warn", role: "status" });
    document.getElementById("content").prepend(staleNote);
  }
  if (reason) staleNote.textContent = `Stale since ${freshAt.toISOString().slice(11, 19)} UTC: ${reason}.`;
}

// Fetches the page again and exchanges the elements with an id that are marked. The part that has the focus, or an
// open form, stays as it is. The header keeps the session of a reader who is away from being renewed.
async function refreshParts(parts) {
  const headers = { accept: "text/html", "x-picket-background": "1" };
  const response = await fetch(location.href, { headers, signal: AbortSignal.timeout(10_000) });
  if (!response.ok) throw new Error(response.status === 401 ? "the session has ended" : `status ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of parts) {
    const old = document.getElementById(part.id);
    const replacement = fresh.getElementById(part.id);
    if (!old || !replacement || old.contains(document.activeElement) || old.querySelector("details[open]")) continue;
    old.replaceWith(replacement);
    addLocalTimes(replacement);
  }
}

// The marks themselves may change: a page that waits for its first answers is fetched more often.
function keepCurrent() {
  const parts = [...document.querySelectorAll("[data-refresh]")];
  if (parts.length === 0) return;
  const seconds = Math.max(2, Math.min(...parts.map((part) => Number(part.dataset.refresh) || 30)));
  setTimeout(async () => {
    if (!document.hidden) {
      const startedAt = new Date();
      try {
        await refreshParts(parts);
        freshAt = startedAt;
        showStaleness();
      } catch (error) {
        showStaleness(error.name === "Error" ? error.message : "the server cannot be reached");
      }
    }
    keepCurrent();
  }, seconds * 1000);
}

// A box that marks all rows of a list.
for (const box of document.querySelectorAll("input[data-mark-all]")) {
  box.hidden = false;
  box.addEventListener("change", () => {
    for (const other of box.form?.elements ?? []) {
      if (other.name === box.dataset.markAll) other.checked = box.checked;
    }
  });
}

addLocalTimes(document);
keepCurrent();
