// The page is whole without this: it lights up a model wherever it stands, and sorts the long matrix by a column.
(() => {
  "use strict";
  let lit = [];
  document.addEventListener("pointerover", (event) => {
    const found = event.target.closest("[data-n]");
    for (const one of lit) one.classList.remove("lit");
    lit = found ? [...document.querySelectorAll(`[data-n="${found.dataset.n}"]`)] : [];
    for (const one of lit) one.classList.add("lit");
  });
  for (const table of document.querySelectorAll("table.many")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
        const value = (row) => Number(row.cells[column].dataset.value ?? NaN);
        const text = (row) => row.cells[column].textContent.trim();
        const order = original.slice().sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (Number.isNaN(x) || Number.isNaN(y)) {
            if (Number.isNaN(x) && Number.isNaN(y)) return up ? text(a).localeCompare(text(b), undefined, { numeric: true }) : text(b).localeCompare(text(a), undefined, { numeric: true });
            return Number.isNaN(x) ? 1 : -1;
          }
          return up ? x - y : y - x;
        });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        body.append(...order);
      });
    });
  }
})();
