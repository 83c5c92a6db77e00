// The native decoder on random weights: every variant must give the same logits. Its numbers depend on the library's
// exponentials, so they don't count into the digest that processors are compared by.
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "decoder.h"
#include "fuzz.h"

namespace tailorbird {

namespace {

struct Width {
  size_t group_size, groups;
  size_t size() const { return group_size * groups; }
};

std::shared_ptr<const Matrix> weight(size_t rows, Width width, bool sane) {
  std::vector<Arrays> arrays(pick(1, 2));
  std::vector<Source> sources;
  for (Arrays& a : arrays) sources.push_back(make(rows, width.group_size, width.groups, sane, a));
  return std::make_shared<const Matrix>(rows, width.group_size, width.groups, sources, std::vector<int32_t>());
}

Numbers numbers(size_t count, bool sane) {
  Numbers out(count);
  for (float& x : out) {
    const auto bits = static_cast<uint32_t>(engine());
    if (sane)
      x = static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31f;
    else
      std::memcpy(&x, &bits, 4);
  }
  return out;
}

Numbers maybe(size_t count, bool sane) { return pick(0, 1) ? numbers(count, sane) : Numbers(); }

Linear linear(size_t rows, Width width, bool sane) { return {weight(rows, width, sane), maybe(rows, sane)}; }

// One weight for all of these rows, or one for each.
std::vector<Linear> linears(const std::vector<size_t>& rows, Width width, bool sane) {
  if (pick(0, 1)) return {linear(std::accumulate(rows.begin(), rows.end(), size_t{0}), width, sane)};
  std::vector<Linear> out;
  for (size_t count : rows) out.push_back(linear(count, width, sane));
  return out;
}

Table table(size_t vocabulary, Width width, bool sane) {
  const size_t classes = std::min(vocabulary, pick(1, 3));
  if (classes == 1) return Table({linear(vocabulary, width, sane)}, {});
  std::vector<std::vector<int32_t>> rows(classes);
  for (size_t id = 0; id < vocabulary; ++id) rows[id < classes ? id : pick(0, classes - 1)].push_back(static_cast<int32_t>(id));
  std::vector<Linear> parts;
  for (const auto& mine : rows) parts.push_back(linear(mine.size(), width, sane));
  return Table(std::move(parts), std::move(rows));
}

Layer layer(Width width, const std::vector<Rope>& ropes, size_t head_dim, bool sane) {
  Layer made{};
  made.kv_heads = static_cast<int64_t>(pick(1, 2));
  made.heads = made.kv_heads * static_cast<int64_t>(pick(1, 3));
  made.head_dim = static_cast<int64_t>(head_dim);
  made.window = static_cast<int64_t>(pick(0, 1) * pick(1, 20));
  made.scale = 0.25f;
  made.soft_cap = pick(0, 1) ? 30.0f : 0.0f;
  made.rope = static_cast<int64_t>(pick(0, ropes.size() - 1));
  made.gate = pick(0, 1) ? Gate::silu : Gate::gelu_tanh;
  made.before_attention = numbers(width.size(), sane);
  made.after_attention = maybe(width.size(), sane);
  made.before_mlp = numbers(width.size(), sane);
  made.after_mlp = maybe(width.size(), sane);
  made.query_norm = maybe(head_dim, sane);
  made.key_norm = maybe(head_dim, sane);
  const size_t q = head_dim * made.heads, kv = head_dim * made.kv_heads;
  const Width inner{pick(1, 17), pick(1, 4)};
  made.qkv = linears({q, kv, kv}, width, sane);
  made.output = linear(width.size(), {head_dim, static_cast<size_t>(made.heads)}, sane);
  made.gate_up = linears({inner.size(), inner.size()}, width, sane);
  made.down = linear(width.size(), inner, sane);
  return made;
}

// One thing that does not fit.
void spoil(std::vector<Layer>& layers, Numbers& norm, Shape& shape) {
  Layer& one = layers[pick(0, layers.size() - 1)];
  switch (pick(0, 6)) {
    case 0: return norm.push_back(1);
    case 1: return static_cast<void>(one.rope += 9);
    case 2: return static_cast<void>(one.kv_heads = 0);
    case 3: return static_cast<void>(one.head_dim += 1);
    case 4: return one.before_mlp.clear();
    case 5: return static_cast<void>(one.down.matrix = nullptr);
    default: return static_cast<void>(shape.vocabulary += 1);
  }
}

struct Call {
  std::vector<int64_t> tokens;
  int64_t start;
  size_t keep;
};

std::vector<Call> calls(size_t vocabulary, size_t capacity) {
  std::vector<Call> out;
  for (size_t start = 0; start < capacity && out.size() < 3;) {
    Call call{{}, static_cast<int64_t>(start), 0};
    for (size_t n = pick(0, 2) ? pick(1, capacity - start) : 1; n > 0; --n) call.tokens.push_back(static_cast<int64_t>(pick(0, vocabulary - 1)));
    call.keep = pick(0, call.tokens.size());
    start += call.tokens.size();
    out.push_back(std::move(call));
  }
  return out;
}

std::vector<float> logits(Decoder& decoder, const std::vector<Call>& all, size_t capacity, bool int8, Activations mode) {
  Cache cache(decoder.layers(), static_cast<int64_t>(capacity), int8);
  std::vector<float> out;
  for (const Call& call : all) {
    const size_t count = call.keep * static_cast<size_t>(decoder.shape().vocabulary);
    auto mine = array<float>(count);
    decoder.forward(call.tokens.data(), call.tokens.size(), call.start, cache, call.keep, mine.get(), mode);
    out.insert(out.end(), mine.get(), mine.get() + count);
  }
  return out;
}

}  // namespace

void one_decoder() {
  const bool sane = pick(0, 1), wrong = pick(0, 4) == 0;
  const Width width{pick(1, 33), pick(1, 3)};
  const size_t vocabulary = pick(0, 15) ? pick(1, 60) : pick(4000, 5000), head_dim = pick(2, pick(0, 1) ? 20 : 80);
  Shape shape{static_cast<int64_t>(width.size()), static_cast<int64_t>(vocabulary), 1e-6f, 1.5f, pick(0, 1) ? 30.0f : 0.0f};
  std::vector<Rope> ropes;
  for (size_t i = pick(1, 2); i > 0; --i) ropes.push_back({numbers(pick(0, head_dim / 2), true), 1.0f});
  std::vector<Layer> layers;
  for (size_t i = pick(1, 2); i > 0; --i) layers.push_back(layer(width, ropes, head_dim, sane));
  Numbers norm = numbers(width.size(), sane);
  const Table embedding = table(vocabulary, width, sane), head = pick(0, 1) ? embedding : table(vocabulary, width, sane);
  if (wrong) spoil(layers, norm, shape);
  std::unique_ptr<Decoder> decoder;
  try {
    decoder = std::make_unique<Decoder>(shape, std::move(layers), std::move(ropes), embedding, norm, head);
  } catch (const std::invalid_argument&) {
    if (!wrong) fail("a decoder that fits is refused");
    return;
  }
  if (wrong) fail("a decoder that does not fit is made");
  const size_t capacity = pick(0, 3) ? pick(1, 24) : pick(100, 200);
  const std::vector<Call> all = calls(vocabulary, capacity);
  const bool int8 = pick(0, 1);
  for (Activations mode : {Activations::int8, Activations::fp32}) {
    use_variant("portable");
    const std::vector<float> first = logits(*decoder, all, capacity, int8, mode);
    for (const char* name : variants()) {
      use_variant(name);
      const std::vector<float> again = logits(*decoder, all, capacity, int8, mode);
      if (!alike(first.data(), again.data(), first.size())) fail("logits of a variant");
    }
  }
}

}  // namespace tailorbird
