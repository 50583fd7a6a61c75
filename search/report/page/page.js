"use strict";
// Figures: unpacks plotly and draws every figure of the page. Those in closed details get their width when opened.
const plots = [...document.querySelectorAll(".plot")];
const draw = plot => {
  const { data, layout } = JSON.parse(plot.querySelector("script").textContent);
  const touched = matchMedia("(pointer: coarse)").matches;
  Plotly.newPlot(plot, data, { ...layout, dragmode: touched ? false : "zoom" }, { displayModeBar: false, responsive: true });
  // A page that is printed is narrower than the screen: with a view box, the figure becomes narrower with it.
  const fit = () => plot.querySelectorAll(".main-svg").forEach(svg =>
    svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`));
  plot.on("plotly_afterplot", fit);
  fit();
};
const unpack = async () => {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), sign => sign.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  for (const plot of plots) {
    draw(plot);
    await new Promise(done => setTimeout(done)); // the page can be scrolled meanwhile
  }
};
if (plots.length)
  unpack().catch(() => plots.forEach(plot => { plot.style.height = "auto"; plot.append("This browser cannot draw the figures."); }))
    .finally(() => { document.documentElement.dataset.drawn = plots.length; });
const refit = details => details.querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.Plots.resize(plot));
for (const details of document.querySelectorAll("details"))
  details.addEventListener("toggle", () => details.open && refit(details));

// Print: everything that is folded is shown.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach(details => { details.open = true; refit(details); });
});
addEventListener("afterprint", () => opened.forEach(details => { details.open = false; }));

// Tables of the class sortable: a click on a head sorts by its column.
const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
const order = (a, b) => (a === "") - (b === "") || (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
for (const table of document.querySelectorAll("table.sortable"))
  table.querySelectorAll("thead th").forEach((head, column, heads) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order(key(a, column), key(b, column)));
      table.tBodies[0].append(...rows);
    };
  });

// Filters: those rows of tables, and elements of the class item, of the named part that have all words and chosen tags.
const fields = [...document.querySelectorAll("[data-filter]")];
for (const field of fields)
  field.oninput = () => {
    const part = field.dataset.filter, beside = fields.filter(other => other.dataset.filter === part);
    const of = kind => beside.filter(other => other.matches(kind)).map(other => other.value);
    const words = of("input").join(" ").toLowerCase().split(/\s+/), tags = of("select").filter(tag => tag);
    for (const item of document.querySelectorAll(`${part} :is(tbody tr, .item)`)) {
      const own = (item.dataset.tags ?? "").split(" ");
      item.hidden = !words.every(word => item.textContent.toLowerCase().includes(word)) || !tags.every(tag => own.includes(tag));
    }
  };
for (const filters of document.querySelectorAll(".filters"))
  filters.hidden = false;

// Code: a button that copies it.
for (const pre of document.querySelectorAll("pre.copy")) {
  const around = document.createElement("div"), button = document.createElement("button");
  around.className = "copying";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${pre.getAttribute("aria-label")}`);
  button.onclick = async () => {
    const range = document.createRange();
    range.selectNodeContents(pre);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    if (!document.execCommand("copy"))
      await navigator.clipboard?.writeText(pre.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  pre.replaceWith(around);
  around.append(button, pre);
}
