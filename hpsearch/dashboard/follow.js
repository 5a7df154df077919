// Draws the page's figure and follows the study: asks for the figure anew while somebody looks.
// The server answers 304 at once, without drawing, until the store has changed.
"use strict";

const SECONDS = 5;
const place = document.getElementById("figure");
const state = document.getElementById("state");
let tag = null;

// Plotly keeps what the mouse did to a figure, but not what was chosen in a menu of its own.
function keepChoices(figure) {
  for (const [index, menu] of (figure.layout.updatemenus ?? []).entries()) {
    const chosen = place.layout?.updatemenus?.[index]?.active ?? 0;
    const visible = menu.buttons[chosen]?.args[0].visible;
    if (!visible) continue;
    menu.active = chosen;
    figure.data.forEach((trace, number) => { trace.visible = visible[number]; });
  }
}

async function ask() {
  const answer = await fetch(place.dataset.source, {
    cache: "no-store",
    headers: tag ? {"If-None-Match": tag} : {},
  });
  if (answer.status === 304) return null;
  if (answer.status === 401) location.reload();  // it says how to log in
  if (!answer.ok) throw new Error(await answer.text());
  const figure = await answer.json();
  tag = answer.headers.get("ETag");
  if (figure === null) return "nothing to show yet";
  // What a person has zoomed, hidden or chosen stays as it is when new numbers come.
  figure.layout.uirevision = "kept";
  keepChoices(figure);
  await Plotly.react(place, figure.data, figure.layout, {responsive: true});
  return "as of " + new Date().toLocaleTimeString();
}

async function follow() {
  if (!document.hidden) {
    try {
      state.textContent = (await ask()) ?? state.textContent;
    } catch (error) {
      tag = null;
      state.textContent =
        error instanceof TypeError ? "the dashboard does not answer" : error.message;
    }
  }
  setTimeout(follow, SECONDS * 1000);
}

follow();
