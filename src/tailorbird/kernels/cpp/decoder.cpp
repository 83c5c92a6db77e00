#include "decoder.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

namespace tailorbird {

namespace {

// Queries of a head that are looked at together.
constexpr size_t kQueries = 8;

// Rows below which splitting small work over threads costs more than it saves.
constexpr size_t kSplit = 4;

// Tiles of a weight that are taken together at least: the product of many rows goes by pairs.
constexpr size_t kTiles = 2;

// Logits that a thread puts in place at a time.
constexpr size_t kGathered = 8192;

// Bytes of weights fetched ahead of a product.
constexpr size_t kFetch = 4096;

void check(bool good, const char* what) {
  if (!good) throw std::invalid_argument(what);
}

// Whether inputs prepared for one matrix serve the other.
bool share(const Matrix& a, const Matrix& b) {
  return a.layout().group_size == b.layout().group_size && a.cols() == b.cols() && !a.layout().order &&
         !b.layout().order;
}

void fetch(const Matrix& matrix, size_t tile) {
  const Layout& m = matrix.layout();
  const size_t begin = tile * m.tile_bytes, end = std::min(begin + kFetch, m.tiles * m.tile_bytes);
  for (size_t at = begin; at < end; at += 64) __builtin_prefetch(m.data + at);
}

void grow(Numbers& numbers, size_t size) {
  if (numbers.size() < size) numbers.resize(size);
}

void check_layer(const Layer& layer, size_t width, size_t ropes) {
  const size_t q = layer.heads * layer.head_dim, kv = layer.kv_heads * layer.head_dim;
  check(layer.heads > 0 && layer.kv_heads > 0 && layer.heads % layer.kv_heads == 0 && layer.head_dim > 0,
        "heads are not a multiple of the heads of keys");
  check(layer.rope < static_cast<int64_t>(ropes) && layer.rope >= 0, "no such rotary table");
  check(fits(layer.qkv, {q, kv, kv}, width), "query, key and value weights don't fit the heads");
  check(fits(layer.output, width, q), "the output weight does not fit the heads");
  check(layer.down.matrix != nullptr, "a layer has no down weight");
  const size_t inner = layer.down.matrix->cols();
  check(fits(layer.gate_up, {inner, inner}, width) && fits(layer.down, width, inner), "the gate does not fit");
  check(layer.before_attention.size() == width && layer.before_mlp.size() == width, "a norm has another width");
  for (const Numbers* norm : {&layer.after_attention, &layer.after_mlp})
    check(norm->empty() || norm->size() == width, "a norm has another width");
  for (const Numbers* norm : {&layer.query_norm, &layer.key_norm})
    check(norm->empty() || norm->size() == static_cast<size_t>(layer.head_dim), "a head's norm has another width");
}

}  // namespace

// --- Cache --------------------------------------------------------------------------------------------------------

Cache::Cache(const std::vector<Layer>& layers, int64_t capacity, bool int8) : capacity_(capacity) {
  check(capacity > 0, "a cache needs room for a position");
  for (const Layer& layer : layers) {
    Entry entry{layer.kv_heads, layer.head_dim, {}, {}};
    const size_t places = layer.kv_heads * capacity;
    for (Side* side : {&entry.keys, &entry.values}) {
      if (int8) {
        side->int8.resize(places * layer.head_dim);
        side->scales.resize(places);
      } else {
        side->bf16.resize(places * layer.head_dim);
      }
    }
    entries_.push_back(std::move(entry));
  }
}

int64_t Cache::nbytes() const {
  size_t total = 0;
  for (const Entry& entry : entries_)
    for (const Side* side : {&entry.keys, &entry.values})
      total += side->bf16.size() * 2 + side->int8.size() + side->scales.size() * 4;
  return static_cast<int64_t>(total);
}

bool Cache::fits(const std::vector<Layer>& layers) const {
  bool same = layers.size() == entries_.size();
  for (size_t i = 0; same && i < layers.size(); ++i)
    same = layers[i].kv_heads == entries_[i].heads && layers[i].head_dim == entries_[i].dim;
  return same;
}

void Cache::Side::put(int64_t at, const float* x, int64_t dim) {
  if (!int8.empty())
    scales[at] = to_int8(x, dim, int8.data() + at * dim);
  else
    for (int64_t d = 0; d < dim; ++d) bf16[at * dim + d] = to_bf16(x[d]);
}

Stored Cache::Side::stored(int64_t at, int64_t dim) const {
  if (int8.empty()) return {bf16.data() + at * dim, nullptr, nullptr};
  return {nullptr, int8.data() + at * dim, scales.data() + at};
}

void Cache::put(size_t layer, int64_t head, int64_t position, const float* key, const float* value) {
  Entry& entry = entries_[layer];
  entry.keys.put(head * capacity_ + position, key, entry.dim);
  entry.values.put(head * capacity_ + position, value, entry.dim);
}

void Cache::read(size_t layer, int64_t head, Head& out) const {
  const Entry& entry = entries_[layer];
  out.keys = entry.keys.stored(head * capacity_, entry.dim);
  out.values = entry.values.stored(head * capacity_, entry.dim);
}

// --- Decoder ------------------------------------------------------------------------------------------------------

// What one thread of a call of `forward` works with. The threads meet at barriers, a few a layer, and go through the
// same stages; projections are seen as rows of `stride` numbers, fused or not.
struct Decoder::Step {
  Pool& pool;
  size_t thread;
  Cache& cache;
  size_t n;
  int64_t start;
  Activations mode;
  float* projected[3];
  size_t stride[3];

  // Where each projection's rows start and how far apart they are.
  void lay_out(const std::vector<Linear>& linears, const size_t* rows, size_t count, Numbers* buffers) {
    size_t offset = 0;
    const bool fused = linears.size() == 1;
    for (size_t i = 0; i < count; ++i) {
      stride[i] = fused ? linears[0].matrix->rows() : rows[i];
      projected[i] = buffers[fused ? 0 : i].data() + (fused ? offset : 0);
      offset += rows[i];
    }
  }

  // Between what was computed before and what follows: f(i) for all rows. A few are left to who comes last.
  template <class S, class F>
  void rows(size_t count, S&& first, F&& f) {
    pool.barrier([&] {
      first();
      for (size_t i = 0; count < kSplit && i < count; ++i) f(i);
    });
    if (count < kSplit) return;
    pool.share(count, kSplit, thread, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) f(i);
    });
    pool.barrier([] {});
  }
  template <class F>
  void rows(size_t count, F&& f) {
    rows(count, [] {}, f);
  }
};

Decoder::Decoder(Shape shape, std::vector<Layer> layers, std::vector<Rope> ropes,
                 Table embedding, Numbers norm, Table head)
    : shape_(shape), layers_(std::move(layers)), ropes_(std::move(ropes)), embedding_(std::move(embedding)),
      norm_(std::move(norm)), head_(std::move(head)), angles_(ropes_.size()) {
  const size_t width = shape_.width, vocabulary = shape_.vocabulary;
  check(width > 0 && vocabulary > 0 && !layers_.empty() && !ropes_.empty(), "a decoder needs layers");
  check(embedding_.rows() == vocabulary && embedding_.cols() == width, "the embedding does not fit");
  check(head_.rows() == vocabulary && head_.cols() == width && norm_.size() == width, "head or last norm does not fit");
  for (const Layer& layer : layers_) {
    check_layer(layer, width, ropes_.size());
    check(2 * static_cast<int64_t>(ropes_[layer.rope].frequency.size()) <= layer.head_dim,
          "more numbers turn than a head has");
  }
}

void Decoder::forward(const int64_t* tokens, size_t n, int64_t start, Cache& cache, size_t keep, float* logits,
                      Activations mode) {
  const std::lock_guard<std::mutex> lock(mutex_);
  grow(hidden_, n * shape_.width);
  for (size_t i = 0; i < n; ++i) embedding_.row(static_cast<size_t>(tokens[i]), hidden_.data() + i * shape_.width);
  Pool::Lease pool = Pool::acquire();
  pool->reserve(make_room(n, keep, mode));
  // One parallel section, in which nothing is allocated.
  pool->each([&](size_t thread) {
    Step step{*pool, thread, cache, n, start, mode, {}, {}};
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      attend_layer(step, layer);
      mlp_layer(step, layer);
    }
    if (keep) finish(step, keep, logits);
  });
}

// Grows every buffer; returns the bytes of scratch that a thread needs.
size_t Decoder::make_room(size_t n, size_t keep, Activations mode) {
  size_t most = 0;
  const auto see = [&](const Linear& linear) {
    reserve(*linear.matrix, n, mode, inputs_);
    most = std::max(most, scratch_bytes(*linear.matrix, n, mode));
  };
  for (Numbers* buffer : {&normed_, &mixed_}) grow(*buffer, n * shape_.width);
  for (size_t r = 0; r < ropes_.size(); ++r) grow(angles_[r], n * 2 * ropes_[r].frequency.size());
  for (const Layer& layer : layers_) {
    grow(attended_, n * layer.heads * layer.head_dim);
    for (const std::vector<Linear>* linears : {&layer.qkv, &layer.gate_up})
      for (size_t i = 0; i < linears->size(); ++i) {
        see((*linears)[i]);
        grow(wide_[i], n * (*linears)[i].matrix->rows());
      }
    see(layer.output), see(layer.down);
  }
  const size_t parts = head_.parts().size();
  predicted_.resize(parts), outputs_.resize(parts);
  for (size_t k = 0; k < parts; ++k) {
    see(head_.parts()[k]);
    if (parts > 1) grow(predicted_[k], keep * head_.parts()[k].matrix->rows());
    outputs_[k] = predicted_[k].data();
  }
  return most;
}

void Decoder::attend_layer(Step& step, size_t index) {
  const Layer& layer = layers_[index];
  const size_t q = layer.heads * layer.head_dim, kv = layer.kv_heads * layer.head_dim, width = shape_.width;
  const size_t rows[3] = {q, kv, kv};
  step.lay_out(layer.qkv, rows, 3, wide_);
  linear(step, layer.qkv, {normed_.data(), width}, step.n, step.projected, [&](size_t i) {
    if (index)
      residual(layers_[index - 1].after_mlp, i);
    else
      enter(step, i);
    rms_norm(hidden_.data() + i * width, layer.before_attention.data(), shape_.epsilon, width, normed_.data() + i * width);
  });
  step.rows(step.n, [&](size_t i) { place(step, index, i); });
  attend_heads(step, index);
  float* out = mixed_.data();
  linear(step, {&layer.output, 1}, {attended_.data(), q}, step.n, &out, [](size_t) {});
}

void Decoder::mlp_layer(Step& step, size_t index) {
  const Layer& layer = layers_[index];
  const size_t inner = layer.down.matrix->cols(), rows[2] = {inner, inner}, width = shape_.width;
  step.lay_out(layer.gate_up, rows, 2, wide_);
  linear(step, layer.gate_up, {normed_.data(), width}, step.n, step.projected, [&](size_t i) {
    residual(layer.after_attention, i);
    rms_norm(hidden_.data() + i * width, layer.before_mlp.data(), shape_.epsilon, width, normed_.data() + i * width);
  });
  float* out = mixed_.data();
  linear(step, {&layer.down, 1}, {step.projected[0], step.stride[0]}, step.n, &out, [&](size_t i) {
    gated(step.projected[0] + i * step.stride[0], step.projected[1] + i * step.stride[1], inner, layer.gate);
  });
}

// Logits of the last rows.
void Decoder::finish(Step& step, size_t keep, float* logits) {
  const size_t width = shape_.width, first = step.n - keep;
  const bool whole = head_.parts().size() == 1;
  linear(step, head_.parts(), {normed_.data(), width}, keep, whole ? &logits : outputs_.data(), [&](size_t i) {
    residual(layers_.back().after_mlp, first + i);
    rms_norm(hidden_.data() + (first + i) * width, norm_.data(), shape_.epsilon, width, normed_.data() + i * width);
  });
  if (!whole) gather_logits(step, keep, logits);
  if (shape_.logit_cap > 0)
    step.rows(keep, [&](size_t i) { soft_cap(logits + i * shape_.vocabulary, shape_.logit_cap, shape_.vocabulary); });
}

// Logits of the head's parts to where their rows are.
void Decoder::gather_logits(Step& step, size_t keep, float* logits) {
  step.pool.barrier([] {});
  step.pool.share(head_.rows(), kGathered, step.thread, [&](size_t begin, size_t end) {
    for (size_t k = 0, base = 0; k < head_.places().size(); base += head_.places()[k++].size()) {
      const std::vector<int32_t>& rows = head_.places()[k];
      const size_t low = std::max(begin, base), high = std::min(end, base + rows.size());
      for (size_t i = 0; i < keep; ++i)
        for (size_t at = low; at < high; ++at)
          logits[i * shape_.vocabulary + rows[at - base]] = outputs_[k][i * rows.size() + at - base];
    }
  });
}

// A token's scaled embedding, and the cosines and sines of its position, which serve all layers.
void Decoder::enter(Step& step, size_t row) {
  multiply(hidden_.data() + row * shape_.width, shape_.embedding_scale, shape_.width);
  for (size_t r = 0; r < ropes_.size(); ++r) {
    const Numbers& frequency = ropes_[r].frequency;
    float* cosine = angles_[r].data() + row * 2 * frequency.size();
    angles(frequency.data(), frequency.size(), step.start + static_cast<int64_t>(row), ropes_[r].scaling, cosine,
           cosine + frequency.size());
  }
}

// Norms and positions of a token's queries and keys; keys and values go to the cache.
void Decoder::place(Step& step, size_t index, size_t row) {
  const Layer& layer = layers_[index];
  const size_t half = ropes_[layer.rope].frequency.size();
  const float* cosine = angles_[layer.rope].data() + row * 2 * half;
  const int64_t position = step.start + static_cast<int64_t>(row), dim = layer.head_dim;
  const auto turn = [&](float* head, const Numbers& weight) {
    if (!weight.empty()) rms_norm(head, weight.data(), shape_.epsilon, dim, head);
    rotate(head, cosine, cosine + half, half);
  };
  for (int64_t h = 0; h < layer.heads; ++h)
    turn(step.projected[0] + row * step.stride[0] + h * dim, layer.query_norm);
  for (int64_t h = 0; h < layer.kv_heads; ++h) {
    float* key = step.projected[1] + row * step.stride[1] + h * dim;
    turn(key, layer.key_norm);
    step.cache.put(index, h, position, key, step.projected[2] + row * step.stride[2] + h * dim);
  }
}

// Queries of heads that share keys go together: what is read of the cache serves all of them.
void Decoder::attend_heads(Step& step, size_t index) {
  const Layer& layer = layers_[index];
  const size_t shared = layer.heads / layer.kv_heads, queries = shared * step.n;
  const size_t piece = std::clamp<size_t>((layer.heads * step.n + step.pool.size() - 1) / step.pool.size(), 1, kQueries);
  const size_t pieces = (queries + piece - 1) / piece;
  step.pool.share(layer.kv_heads * pieces, 1, step.thread, [&](size_t begin, size_t end) {
    for (size_t task = begin; task < end; ++task) {
      Head head{{}, {}, layer.head_dim, layer.scale, layer.soft_cap, layer.window};
      const size_t kv = task / pieces, low = task % pieces * piece, high = std::min(low + piece, queries);
      step.cache.read(index, static_cast<int64_t>(kv), head);
      Query asked[kQueries];
      for (size_t i = low; i < high; ++i) {
        const size_t token = i / shared, h = kv * shared + i % shared;
        asked[i - low] = {step.projected[0] + token * step.stride[0] + h * layer.head_dim,
                          attended_.data() + (token * layer.heads + h) * layer.head_dim,
                          step.start + static_cast<int64_t>(token)};
      }
      attend(head, asked, static_cast<int64_t>(high - low));
    }
  });
}

// What the last product gave joins the stream.
void Decoder::residual(const Numbers& weight, size_t row) {
  const size_t width = shape_.width;
  float* mixed = mixed_.data() + row * width;
  if (!weight.empty()) rms_norm(mixed, weight.data(), shape_.epsilon, width, mixed);
  add(hidden_.data() + row * width, mixed, width);
}

// Several weights over the same inputs, rows of x that before(i) makes. Inputs are prepared once where the weights'
// groups allow it.
template <class F>
void Decoder::linear(Step& step, std::span<const Linear> linears, Rows x, size_t n, float* const* out, F&& before) {
  using Clock = std::chrono::steady_clock;
  for (size_t at = 0; at < linears.size();) {
    const Matrix& first = *linears[at].matrix;
    size_t stop = at + 1, tiles = first.tiles();
    while (stop < linears.size() && share(first, *linears[stop].matrix)) tiles += linears[stop++].matrix->tiles();
    const auto each = [&](size_t begin, size_t end, auto&& f) {  // f(weight, its tiles low, high)
      for (size_t i = at, base = 0; i < stop; base += linears[i++].matrix->tiles()) {
        const size_t low = std::max(begin, base), high = std::min(end, base + linears[i].matrix->tiles());
        if (low < high) f(i, low - base, high - base);
      }
    };
    // The thread's first weights come while it waits for the others.
    const size_t begin = step.thread * step.pool.piece_of(tiles, kTiles);
    each(begin, begin + 1, [&](size_t i, size_t low, size_t) { fetch(*linears[i].matrix, low); });
    step.rows(n, [&] { reserve(first, n, step.mode, inputs_); }, [&](size_t i) {
      if (at == 0) before(i);
      prepare(first, x.data, x.stride, i, i + 1, step.mode, inputs_);
    });
    const auto begun = Clock::now();
    step.pool.share(tiles, kTiles, step.thread, [&](size_t low_tile, size_t high_tile) {
      each(low_tile, high_tile, [&](size_t i, size_t low, size_t high) {
        multiply(*linears[i].matrix, inputs_, low, high, out[i], linears[i].matrix->rows(), step.mode,
                 step.pool.scratch(step.thread));
      });
    });
    if (step.thread == 0) product_seconds_ += std::chrono::duration<double>(Clock::now() - begun).count();
    at = stop;
  }
  const auto biased = [](const Linear& linear) { return !linear.bias.empty(); };
  if (std::any_of(linears.begin(), linears.end(), biased))
    step.rows(n, [&](size_t r) {
      for (size_t i = 0; i < linears.size(); ++i) {
        const Numbers& bias = linears[i].bias;
        add(out[i] + r * linears[i].matrix->rows(), bias.data(), bias.size());
      }
    });
}

}  // namespace tailorbird
