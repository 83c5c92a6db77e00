// A recommender in a page: onnxruntime-web runs the trunk, and patches are read here. A patch is held to the manifest
// before it is put to use; one that is refused leaves the model as it is. A swap needs no new session.

const MAGIC = 0x31504254; // "TBP1"
const HEADER = 46, ENCODINGS = ["raw", "rows", "planes"], DTYPES = ["float32", "float16"], STEPS = 127;
const KINDS = ["full", "delta", "lowrank", "mask", "skip", "prototype"];
const NEEDS = { full: "replace", delta: "edit", mask: "mask", skip: "skip", prototype: "edit" };
const fround = Math.fround;

export async function open(ort, base = "./") {
  const fetched = async (name) => {
    const answer = await fetch(new URL(name, new URL(base, document.baseURI)));
    if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
    return answer;
  };
  const about = await (await fetched("recommender.json")).json();
  const manifest = await (await fetched("manifest.json")).json();
  const own = tensorsOf(await (await fetched("personal.safetensors")).arrayBuffer());
  const model = new Uint8Array(await (await fetched("model.onnx")).arrayBuffer());
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return new Recommender(ort, session, about, manifest, own);
}

export class Recommender {
  constructor(ort, session, about, manifest, own) {
    Object.assign(this, { ort, session, about, manifest, own, head: own });
  }

  // The trunk's own head again.
  reset() { this.head = this.own; }

  // Put a patch to use; throws, and changes nothing, where it is refused.
  async take(message) { this.head = await received(new Uint8Array(message), this.own, this.manifest, this.about.manifest); }

  // A score for every item, the pad's first, for a history of items, oldest first.
  async scores(history) {
    const { items, length } = this.about.shape;
    if (!history.every((item) => Number.isInteger(item) && item >= 1 && item <= items)) throw new Error(`items lie between 1 and ${items}`);
    const ids = history.length ? history.slice(-length) : [0];
    const feeds = { ids: new this.ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]) };
    for (const { name, shape } of this.manifest.tensors) feeds[name] = new this.ort.Tensor("float32", this.head[name], shape);
    return (await this.session.run(feeds)).scores.data;
  }

  // The best items and their titles, none of the history.
  async recommend(history, count = 10) {
    const scores = await this.scores(history), seen = new Set([0, ...history]);
    const order = [...scores.keys()].filter((item) => !seen.has(item)).sort((a, b) => scores[b] - scores[a] || a - b);
    return order.slice(0, count).map((item) => ({ item, title: this.about.titles[item - 1] ?? `item ${item}`, score: scores[item] }));
  }
}

// The adaptive tensors after a message, as `tailorbird.tailor.wire.receive` gives them.
async function received(message, own, manifest, digest) {
  const { kind, dtype, encoding, prototype, chosen, payload, result } = header(message, manifest, digest);
  const layouts = chosen.map((entry) => layout(kind, dtype, entry));
  const bodies = encoding === "rows" ? rows(payload, kind, dtype, chosen, own)
    : await arrays(payload, encoding, kind, dtype, chosen, layouts, own, manifest.max_bytes);
  const made = { ...own };
  for (const entry of manifest.tensors) {
    const { name } = entry, old = own[prototype ? `prototype.${prototype}.${name}` : name], at = chosen.indexOf(entry);
    made[name] = at < 0 ? old : applied(kind, old, bodies[at], entry, manifest.clip);
    if (!made[name].every((value) => Math.abs(value) <= entry.max_abs)) refuse(`${name} would pass ${entry.max_abs}`);
  }
  if ((await digestOf(made, manifest)).slice(0, 32) !== result) refuse("the result is not what was sent");
  return made;
}

function header(message, manifest, digest) {
  const count = manifest.tensors.length, start = HEADER + Math.ceil(count / 8);
  if (message.length < start || message.length > manifest.max_bytes) refuse(`${message.length} bytes`);
  const view = new DataView(message.buffer, message.byteOffset, message.length);
  const [encoding, kind, dtype, rank] = message.subarray(4, 8), prototype = view.getUint16(8, true);
  if (view.getUint32(0, true) !== MAGIC || hex(message.subarray(14, 30)) !== digest.slice(0, 32)) refuse("no patch of this manifest");
  const known = encoding < ENCODINGS.length && NEEDS[KINDS[kind]] && dtype < DTYPES.length && !rank;
  if (!known || view.getUint32(10, true) !== message.length - start) refuse("a header that can't be read here");
  if (prototype > (KINDS[kind] === "prototype" ? manifest.prototypes : 0)) refuse(`prototype ${prototype}`);
  const flag = (i) => (message[HEADER + (i >> 3)] >> (i & 7)) & 1;
  for (let i = count; i < 8 * (start - HEADER); i++) if (flag(i)) refuse("more tensors than there are");
  const chosen = manifest.tensors.filter((_, i) => flag(i));
  if (!chosen.every((entry) => entry.actions.includes(NEEDS[KINDS[kind]]))) refuse(`${KINDS[kind]} is not allowed`);
  return {
    kind: KINDS[kind], dtype: DTYPES[dtype], encoding: ENCODINGS[encoding], prototype, chosen,
    payload: message.subarray(start), result: hex(message.subarray(30, 46)),
  };
}

// Bytes of a number, and how many, of the arrays that a kind has for one tensor.
function layout(kind, dtype, entry) {
  const [height, width] = matrix(entry), count = height * width;
  return {
    full: [[dtype === "float32" ? 4 : 2, count]], delta: [[1, count], [2, height]], mask: [[1, Math.ceil(count / 8)]],
    skip: [], prototype: [[1, count]],
  }[kind];
}

async function arrays(payload, encoding, kind, dtype, chosen, layouts, own, limit) {
  const size = layouts.flat().reduce((sum, [bytes, count]) => sum + bytes * count, 0);
  if (size > limit) refuse("it would unpack to more than is allowed");
  const data = encoding === "planes" ? await unpacked(payload, size) : payload;
  if (data.length !== size) refuse(`${data.length} bytes where ${size} belong`);
  let at = 0;
  return chosen.map((entry, i) => layouts[i].map(([bytes, count]) => {
    const piece = data.slice(at, (at += bytes * count));
    if (encoding !== "planes") return piece;
    const out = new Uint8Array(piece.length);
    for (let j = 0; j < count; j++) for (let b = 0; b < bytes; b++) out[j * bytes + b] = piece[b * count + j];
    if (kind === "full") encoded(own[entry.name], dtype).forEach((byte, j) => { out[j] ^= byte; });
    return out;
  }));
}

function rows(payload, kind, dtype, chosen, own) {
  if (kind !== "full") refuse("rows of no values");
  let at = 0;
  const bodies = chosen.map((entry) => {
    const [height, width] = matrix(entry), bits = Math.ceil(height / 8), row = width * (dtype === "float32" ? 4 : 2);
    const flags = payload.subarray(at, (at += bits)), out = encoded(own[entry.name], dtype);
    for (let i = 0; i < 8 * bits; i++) {
      if (!((flags[i >> 3] >> (i & 7)) & 1)) continue;
      if (i >= height || at + row > payload.length) refuse("it ends inside the rows");
      out.set(payload.subarray(at, (at += row)), i * row);
    }
    return [out];
  });
  if (at !== payload.length) refuse("it goes on behind the rows, or ends before");
  return bodies;
}

function applied(kind, old, body, entry, clip) {
  const [height, width] = matrix(entry), added = (edit) => old.map((value, i) => (edit(i) === 0 ? value : value + edit(i)));
  const signed = body.length ? new Int8Array(body[0].buffer, body[0].byteOffset, body[0].length) : null;
  if (kind === "skip") return new Float32Array(height * width);
  if (kind === "mask") return old.map((value, i) => ((body[0][i >> 3] >> (i & 7)) & 1 ? value : 0));
  if (kind === "full") return body[0].length === 4 * old.length ? new Float32Array(body[0].slice().buffer) : halves(body[0]);
  if (kind === "prototype") {
    const step = fround(clip / STEPS), most = fround(clip);
    return added((i) => Math.min(most, Math.max(-most, fround(signed[i] * step))));
  }
  const scales = halves(body[1]);
  return added((i) => fround(signed[i] * scales[Math.floor(i / width)]));
}

// At most so many bytes, whatever the payload would grow to.
async function unpacked(payload, size) {
  const reader = new Blob([payload]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const out = new Uint8Array(size);
  let at = 0;
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      out.set(part.value, at);
      at += part.value.length;
    }
  } catch (cause) {
    await reader.cancel().catch(() => {});
    refuse(`can't be unpacked: ${cause.message}`);
  }
  return out.subarray(0, at);
}

function halves(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Float32Array.from({ length: bytes.length / 2 }, (_, i) => {
    const bits = view.getUint16(2 * i, true), sign = bits >> 15 ? -1 : 1, power = (bits >> 10) & 31, rest = bits & 1023;
    if (power === 31) return rest ? NaN : sign * Infinity;
    return sign * (power ? 2 ** (power - 15) * (1 + rest / 1024) : 2 ** -14 * (rest / 1024));
  });
}

// The bytes of a tensor in a type; the halves of a trunk that has others are not needed by any message made for it.
function encoded(values, dtype) {
  const bytes = new Uint8Array(values.slice().buffer);
  if (dtype === "float32") return bytes;
  if (values.some((value) => value !== 0)) refuse("halves of a trunk with numbers of its own");
  const out = new Uint8Array(2 * values.length);
  for (let i = 0; i < values.length; i++) out[2 * i + 1] = bytes[4 * i + 3] & 128;
  return out;
}

async function digestOf(tensors, manifest) {
  const pieces = manifest.tensors.toSorted((a, b) => (a.name < b.name ? -1 : 1)).flatMap(({ name, shape }) => [
    new TextEncoder().encode(`${name}(${shape.join(", ")}${shape.length === 1 ? "," : ""})`), tensors[name],
  ]);
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", await new Blob(pieces).arrayBuffer())));
}

// The tensors of a safetensors file, all float32.
function tensorsOf(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true)), start = 8 + size;
  const table = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  return Object.fromEntries(Object.entries(table).filter(([name]) => name !== "__metadata__").map(
    ([name, { data_offsets: [low, high] }]) => [name, new Float32Array(buffer.slice(start + low, start + high))]));
}

const matrix = ({ shape }) => (shape.length === 1 ? [1, shape[0]] : shape);
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
function refuse(why) { throw new Error(`patch refused: ${why}; the model in use stays as it is`); }
