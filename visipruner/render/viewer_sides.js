// With several pruned runs, radio buttons with the methods' names choose the one shown.

let side = 0;

// The value with the chosen run's own parts.
function sideOf(value) {
  const runs = value?.runs ?? [], names = runs.map((run) => run.name);
  if (value?.kind === "start") side = 0;
  side = Math.min(side, Math.max(0, runs.length - 1));
  const box = find("sides");
  box.hidden = !runs.length;
  if (box.dataset.names !== JSON.stringify(names)) {
    box.dataset.names = JSON.stringify(names);
    box.querySelectorAll("label").forEach((label) => label.remove());
    box.append(...names.map(sideChoice));
  }
  box.querySelectorAll("input").forEach((radio, number) => { radio.checked = number === side; });
  return runs.length ? { ...value, ...runs[side] } : value;
}

function sideChoice(name, number) {
  const label = document.createElement("label"), radio = document.createElement("input");
  radio.type = "radio";
  radio.name = sidesName;
  radio.addEventListener("change", () => showSide(number));
  label.append(radio, ` ${name}`);
  return label;
}

const sidesName = "pv-side-" + Math.random().toString(36).slice(2);

// Keeps the layer that a visitor has chosen when the run changes.
function showSide(number) {
  const layer = view.layer, moved = layer !== story.first;
  side = number;
  receive(props.value);
  if (moved) go(layer);
}
