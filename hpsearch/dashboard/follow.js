// Draws the page's figures and tables and follows the study: asks for them anew while somebody looks.
// The server answers 304 at once, without drawing, until the store has changed.
"use strict";

const SECONDS = 5;
const state = document.getElementById("state");
const places = [...document.querySelectorAll("[data-source]")];
const tags = new Map();

// Plotly keeps what the mouse did to a figure, but not what was chosen in a menu of its own.
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
  // What a person has zoomed, hidden or chosen stays as it is when new numbers come.
  figure.layout.uirevision = "kept";
  keepChoices(place, figure);
  // Plotly measures the place when the window changes, and would take its own height for it.
  place.style.height = `${figure.layout.height}px`;
  const options = {responsive: true, displaylogo: false};
  await Plotly.react(place, figure.data, figure.layout, options);
}

// What the place now shows: true for something, false for nothing, null for the same as before.
async function ask(place) {
  const tag = tags.get(place);
  const answer = await fetch(place.dataset.source, {
    cache: "no-store",
    headers: tag ? {"If-None-Match": tag} : {},
  });
  if (answer.status === 304) return null;
  if (answer.status === 401) location.reload();  // it says how to log in
  if (!answer.ok) throw new Error(await answer.text());
  if (place.classList.contains("figure")) {
    const figure = await answer.json();
    // Shown before it is drawn: Plotly gives a place without a width one of its own.
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
