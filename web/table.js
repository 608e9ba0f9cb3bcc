// Tables that sort by a heading: each heading becomes a button, cells sort by data-value.
"use strict";

function makeSortable(table) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") === "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column]));
      body.append(...(up ? rows : rows.reverse()));
    });
  });
}

// Numbers by size, texts by alphabet; cells without a value come last in descending order.
function compare(a, b) {
  const x = a.dataset.value ?? a.textContent, y = b.dataset.value ?? b.textContent;
  if (x === "" || y === "") return (x !== "") - (y !== "");
  return isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
}
