// The filter of the rules. Its state is the part of the address behind #: words of the boxes, and q=text.
// A table of ten thousand rows takes browsers seconds to lay out, so no more than one sheet of them is shown.
"use strict";
const SHEET = 250;

const start = () => {
  const [form, shown, sheets, previous, next] =
    ["filter", "shown", "sheets", "previous", "next"].map((id) => document.getElementById(id));
  const query = form.elements.q;
  const boxes = [...form.querySelectorAll("[type=checkbox]")];
  const groups = [...form.querySelectorAll("fieldset")];
  const rows = [...document.querySelectorAll("#rules > tbody > tr")];
  let texts = null; // of all rows, in small letters, once somebody looks for text
  let fitting = [];
  let sheet = [];
  let from = 0;

  const checked = (group) => [...group.querySelectorAll(":checked")].map((box) => box.value);

  const filter = () => {
    const text = query.value.trim().toLowerCase();
    const wanted = groups.map((group) => [group.name, new Set(checked(group))]).filter(([, words]) => words.size);
    if (text && !texts) {
      texts = rows.map((row) => row.textContent.toLowerCase());
    }
    fitting = rows.filter(
      (row, at) => wanted.every(([name, words]) => words.has(row.dataset[name])) && (!text || texts[at].includes(text)),
    );
    show(0);
  };

  const show = (first) => {
    from = first;
    sheet.forEach((row) => row.classList.remove("shown"));
    sheet = fitting.slice(from, from + SHEET);
    sheet.forEach((row) => row.classList.add("shown"));
    const part = sheet.length < fitting.length ? `; here are ${from + 1} to ${from + sheet.length} of them` : "";
    shown.textContent = `${fitting.length} of ${rows.length} lines${part}.`;
    sheets.hidden = !part;
    previous.disabled = from === 0;
    next.disabled = from + SHEET >= fitting.length;
  };

  const turn = (by) => {
    show(from + by);
    shown.scrollIntoView();
  };

  const read = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    query.value = state.get("q") ?? "";
    boxes.forEach((box) => (box.checked = state.has(box.value)));
    filter();
    const row = document.getElementById(location.hash.slice(1));
    if (fitting.includes(row)) {
      show(Math.floor(fitting.indexOf(row) / SHEET) * SHEET);
    }
    row?.scrollIntoView();
  };

  const write = () => {
    const words = groups.flatMap(checked);
    if (query.value.trim()) {
      words.push(`q=${encodeURIComponent(query.value.trim())}`);
    }
    history.replaceState(null, "", `#${words.join("&")}`);
  };

  const changed = () => {
    filter();
    write();
  };

  form.addEventListener("input", changed);
  form.addEventListener("reset", () => setTimeout(changed)); // the fields are reset behind the event
  form.addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => turn(-SHEET));
  next.addEventListener("click", () => turn(SHEET));
  addEventListener("hashchange", read);
  form.hidden = false;
  read();
};

document.documentElement.classList.add("scripted"); // before there are rows, so that they are not laid out in vain
addEventListener("DOMContentLoaded", start);
