"""What the page does beyond lying there: draws charts, sorts tables, moves a slider, filters. Without it everything can be read."""

BEHAVIOUR = """
const EMBED = {mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, config: CONFIG,
  tooltip: {disableDefaultStyle: true}};  // ast: expressions are interpreted, so the page's policy needs no eval

const all = (what, within = document) => [...within.querySelectorAll(what)];

async function draw(chart) {
  const spec = JSON.parse(chart.querySelector("script").textContent);
  const { view } = await vegaEmbed(chart.querySelector(".canvas"), spec, EMBED);
  for (const choice of all("select[data-signal]", chart.closest("figure") ?? chart)) {
    const tell = () => view.signal(choice.dataset.signal, choice.value).runAsync();
    choice.addEventListener("change", tell);
    if (choice.value !== choice.options[0].value) await tell();  // what a reloaded page still has chosen
  }
  chart.dataset.drawn = "";
}

function slide(slides) {
  const pictures = all(".slide", slides), bar = slides.querySelector("input"), said = slides.querySelector("output");
  const show = () => {
    pictures.forEach((one, place) => { one.hidden = place !== Number(bar.value); });
    said.textContent = pictures[bar.value].dataset.name;
    bar.setAttribute("aria-valuetext", said.textContent);
  };
  bar.addEventListener("input", show);
  show();
}

function value(cell) {
  const text = cell.textContent.trim().replaceAll(",", ""), number = Number.parseFloat(text);
  return Number.isNaN(number) ? text : number;
}

function sortable(table) {
  const heads = all("thead th", table), body = table.tBodies[0];
  if (body.rows.length < 3) return;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compare = (a, b) => {
        const [one, two] = [value(a.cells[column]), value(b.cells[column])];
        if (typeof one !== typeof two) return typeof one === "number" ? -1 : 1;
        const order = typeof one === "number" ? one - two : one.localeCompare(two, "en", { numeric: true });
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

function find(box) {
  const field = box.querySelector("input"), said = box.querySelector("output");
  const rows = all("tbody tr", box.parentElement);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\\s+/);
    rows.forEach((row) => { row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word)); });
    said.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
}

function album(box) {
  const list = box.querySelector(".album"), tiles = all("li", list), said = box.querySelector("output");
  const kind = box.querySelector("select[data-kind]"), order = box.querySelector("select[data-order]");
  const show = () => {
    const [by, way] = order.value.split(" ");
    const rank = (tile) => Number(tile.dataset[by]);
    list.append(...[...tiles].sort((a, b) => (way === "down" ? rank(b) - rank(a) : rank(a) - rank(b))));
    tiles.forEach((tile) => { tile.hidden = kind.value !== "" && tile.dataset.kind !== kind.value; });
    said.textContent = `${tiles.filter((tile) => !tile.hidden).length} images`;
  };
  kind.addEventListener("change", show);
  order.addEventListener("change", show);
  show();
}

all(".controls").forEach((one) => { one.hidden = false; });  // what needs JavaScript is hidden without it
all(".slides").forEach(slide);
all("table:not(.confusion, .facts)").forEach(sortable);
all(".find").forEach(find);
all(".albums").forEach(album);
for (const chart of all(".chart")) await draw(chart);
document.documentElement.dataset.ready = "";
"""
