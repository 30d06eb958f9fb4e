const table = document.getElementById("classes");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];

heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
  const names = head.classList.contains("n");
  const was = head.getAttribute("aria-sort");
  const up = was ? was === "descending" : names;  // first names from A, numbers from the highest
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => {
    const cell = row.cells[column];
    if (names) return cell.textContent;
    return "v" in cell.dataset ? Number(cell.dataset.v) : null;  // undefined values have none, and go last
  };
  const compare = (x, y) => {
    if (x === null || y === null) return (x === null) - (y === null);
    const order = names ? x.localeCompare(y) : (x > y) - (x < y);
    return up ? order : -order;
  };
  body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
}));

document.getElementById("find").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
