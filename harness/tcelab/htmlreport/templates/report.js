"use strict";
(() => {
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));

  // Copying: the text of the element that the button names.
  const selected = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  };
  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    let done = false;
    try {
      await navigator.clipboard.writeText(source.textContent);
      done = true;
    } catch {
      done = selected(source);
    }
    const label = button.firstChild;
    label.textContent = done ? "Copied" : "Select it";
    window.setTimeout(() => { label.textContent = "Copy"; }, 2000);
  };
  for (const button of all("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }

  // The filter of a night: by how a cell ended, and by words that must all be in what it is called.
  const form = document.getElementById("filter");
  const cells = all(".cell");
  const links = new Map(all("a.at").map((link) => [link.getAttribute("href").slice(1), link]));
  const rows = all(".grid tbody tr");
  const chips = form ? all(".chip", form) : [];
  const words = document.getElementById("words");
  const texts = new Map();
  const text = (cell) => {
    if (!texts.has(cell)) {
      const told = all(".find, :scope > .facts", cell).map((each) => each.textContent).join(" ");
      texts.set(cell, told.toLowerCase());
    }
    return texts.get(cell);
  };
  let state = "";
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const cell of cells) {
      const fits = (!state || cell.dataset.state === state) && wanted.every((word) => text(cell).includes(word));
      cell.hidden = !fits;
      left += fits ? 1 : 0;
      links.get(cell.id)?.classList.toggle("out", !fits);
    }
    for (const row of rows) {
      row.hidden = !row.querySelector("a.at:not(.out)");
    }
    for (const chip of chips) {
      chip.setAttribute("aria-pressed", String(chip.dataset.state === state));
    }
    document.getElementById("left").textContent = `${left} of ${cells.length} cells`;
  };
  if (form) {
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    words.addEventListener("input", filter);
    for (const chip of chips) {
      chip.addEventListener("click", () => { state = chip.dataset.state; filter(); });
    }
    filter();
  }

  // A link to a cell shows it, also where the filter hides it.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) {
      return;
    }
    const cell = target.closest(".cell");
    if (cell && cell.hidden) {
      state = "";
      words.value = "";
      filter();
    }
    for (let each = target; each; each = each.parentElement) {
      if (each.tagName === "DETAILS") {
        each.open = true;
      }
    }
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  reveal();

  // What is folded is printed as well.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    for (const each of folded) {
      each.open = true;
    }
  });
  window.addEventListener("afterprint", () => {
    for (const each of folded) {
      each.open = false;
    }
  });
})();
