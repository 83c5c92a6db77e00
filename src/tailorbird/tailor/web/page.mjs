// The demonstration: a history by titles, a patch from a file, what comes next.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { open } from "./recommender.mjs";

ort.env.wasm.numThreads = 1; // more need a page that is isolated from others
const $ = (id) => document.getElementById(id);
const history = [];
const guarded = (work) => async (event) => {
  event?.preventDefault?.();
  $("error").textContent = "";
  try { await work(event); } catch (cause) { $("error").textContent = cause.message; }
};
const lines = (list, texts) => list.replaceChildren(...texts.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
const tell = async () => {
  const { titles } = model.about;
  lines($("history"), history.map((item) => titles[item - 1] ?? `item ${item}`));
  lines($("next"), (await model.recommend(history)).map(({ title }) => title));
};
const numbered = (text) => {
  const found = /^\d+$/.test(text) ? Number(text) : model.about.titles.indexOf(text) + 1;
  if (found < 1 || found > model.about.shape.items) throw new Error(`there is no item ${text}`);
  return found;
};

let model;
await guarded(async () => {
  model = await open(ort);
  $("model").textContent = `${model.about.name}, ${model.about.shape.items} items`;
  $("titles").replaceChildren(...model.about.titles.map((title) => Object.assign(document.createElement("option"), { value: title })));
  $("form").addEventListener("submit", guarded(async () => { history.push(numbered($("title").value.trim())); $("title").value = ""; await tell(); }));
  $("patch").addEventListener("change", guarded(async () => {
    await model.take(await $("patch").files[0].arrayBuffer());
    $("head").textContent = $("patch").files[0].name;
    await tell();
  }));
  $("reset").addEventListener("click", guarded(async () => { model.reset(); $("head").textContent = "trunk alone"; await tell(); }));
  await tell();
  window.recommender = model; // for whoever tries things in the console
})();
