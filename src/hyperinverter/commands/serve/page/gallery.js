// Folders of evaluations, sweeps and runs: their tables, pictures, and photos that open in the editor.
const part = (kind, text, said = {}) => { const made = document.createElement(kind); if (text) made.textContent = text; Object.assign(made, said); return made; };
const digits = (cell) => { const number = Number(cell); return cell !== "" && Number.isFinite(number) && !Number.isInteger(number) ? number.toPrecision(4) : cell; };

export function entryOf(entry, index, page) {
  const box = part("section"); box.className = "entry"; box.append(part("h3", entry.name));
  if (entry.rows.length) {
    const region = part("div", "", { className: "table", tabIndex: 0, role: "region", ariaLabel: `Table of ${entry.name}` }), table = part("table");
    entry.rows.forEach((row, line) => {
      const cells = row.map((cell) => (line ? part("td", digits(cell)) : part("th", cell, { scope: "col" })));
      const made = part("tr"); made.append(...cells); table.append(made);
    });
    region.append(table); box.append(region);
  }
  if (entry.photos) box.append(...photosOf(entry, index, page));
  for (const { title, url } of entry.pictures) {
    const more = part("details", "", { open: !entry.photos });
    more.append(part("summary", title), part("img", "", { src: url, alt: `${title} of ${entry.name}`, loading: "lazy" }));
    box.append(more);
  }
  return box;
}

function photosOf(entry, index, page) {
  const ways = part("p", "", { className: "ways" }), list = part("div", "", { className: "photos" });
  const choice = (title, names) => {
    const label = part("label", `${title} `), select = part("select");
    select.append(...names.map((name, value) => new Option(name, value)));
    label.append(select);
    if (names.length) ways.append(label);
    return select;
  };
  const model = choice("Photos of", entry.models), number = choice("worst first by", entry.numbers);
  const fill = page.attempt(async () => {
    const asked = `model=${model.value || 0}&number=${number.value || 0}`;
    const photos = await (await page.ask(`/api/gallery/${index}/photos?${asked}`)).json();
    list.replaceChildren(...photos.map(({ place, name, value }) => {
      const measured = value === null ? "" : `${entry.numbers[number.value]} ${digits(value)}`;
      const button = part("button", "", { type: "button", title: `Open ${name}` });
      const source = `/api/gallery/${index}/photos/${place}`;
      button.append(part("img", "", { src: source, alt: `Open ${name}`, loading: "lazy" }));
      if (entry.models.length) button.append(part("img", "", { src: `${source}?model=${model.value}`, alt: `drawn by ${entry.models[model.value]}`, loading: "lazy" }));
      button.append(part("span", measured || name));
      button.addEventListener("click", () => page.open({ gallery: index, place }));
      return button;
    }));
  });
  model.addEventListener("change", fill); number.addEventListener("change", fill);
  fill();
  return [ways, list];
}
