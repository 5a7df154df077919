// Draws the page's figures and tables, and updates them while the page is visible.
// The server answers 304 at once, without drawing, until the store has changed.
"use strict";

const SECONDS = 5;
const state = document.getElementById("state");
const places = [...document.querySelectorAll("[data-source]")];
const tags = new Map();

// Plotly preserves zoom and hidden lines, but not the choice in a figure's own menu.
function keepChoices(place, figure) {
  for (const [index, menu] of (figure.layout.updatemenus ?? []).entries()) {
    const chosen = place.layout?.updatemenus?.[index]?.active ?? 0;
    const visible = menu.buttons[chosen]?.args[0].visible;
    if (!visible) continue;
    menu.active = chosen;
    figure.data.forEach((trace, number) => { trace.visible = visible[number]; });
  }
}

async function draw(place, figure) {
  // A constant value makes Plotly preserve zoom and hidden lines when new numbers come.
  figure.layout.uirevision = "kept";
  keepChoices(place, figure);
  // Plotly measures the place when the window changes, so the place needs a fixed height.
  place.style.height = `${figure.layout.height}px`;
  const options = {responsive: true, displaylogo: false};
  await Plotly.react(place, figure.data, figure.layout, options);
}

// Update one place. Returns true if it shows something, false if nothing, null if unchanged.
async function ask(place) {
  const tag = tags.get(place);
  const answer = await fetch(place.dataset.source, {
    cache: "no-store",
    headers: tag ? {"If-None-Match": tag} : {},
  });
  if (answer.status === 304) return null;
  if (answer.status === 401) location.reload();  // the new page says how to log in
  if (!answer.ok) throw new Error(await answer.text());
  if (place.classList.contains("figure")) {
    const figure = await answer.json();
    // Shown before it is drawn, because Plotly needs the width of the place.
    place.hidden = figure === null;
    if (figure !== null) await draw(place, figure);
  } else {
    place.innerHTML = await answer.text();
  }
  tags.set(place, answer.headers.get("ETag"));
  return !place.hidden;
}

async function follow() {
  if (!document.hidden) {
    try {
      const shown = [];
      for (const place of places) shown.push(await ask(place));
      if (shown.includes(true)) state.textContent = "as of " + new Date().toLocaleTimeString();
      else if (shown.includes(false)) state.textContent = "nothing to show yet";
    } catch (error) {
      tags.clear();
      state.textContent =
        error instanceof TypeError ? "the dashboard does not answer" : error.message;
    }
  }
  setTimeout(follow, SECONDS * 1000);
}

follow();
