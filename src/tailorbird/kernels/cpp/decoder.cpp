#include "decoder.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

namespace tailorbird {

namespace {

constexpr size_t kQueries = 8;             // queries of a head that are looked at together
constexpr size_t kSplit = 4;               // rows below which splitting over threads costs more than it saves
constexpr size_t kPiece = 256;             // tiles that a thread takes at a time, at most
constexpr size_t kExpected = 256 * 1024;   // bytes that a thread fetches while it waits for a product
constexpr size_t kAhead = 4096;            // bytes of the next part's weights that are fetched before they are wanted
// Blocks of keys from which on threads that would all read the same share the keys instead, and wait for each other.
constexpr int64_t kTogether = 8;

void check(bool good, const char* what) {
  if (!good) throw std::invalid_argument(what);
}

// Whether inputs prepared for one matrix serve the other.
bool share(const Matrix& a, const Matrix& b) {
  return a.layout().group_size == b.layout().group_size && a.cols() == b.cols() && !a.layout().order &&
         !b.layout().order;
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

// Tiles that a thread takes at a time: few enough that none waits long for the last piece of another, and enough that
// what it has fetched ahead is its own.
size_t piece_of(size_t tiles, size_t threads) { return std::clamp<size_t>(tiles / (2 * threads), 1, kPiece); }

const uint8_t* tile_of(const Matrix& matrix, size_t tile) {
  return matrix.layout().data + tile * matrix.layout().tile_bytes;
}

// Adds to a sum of seconds what passes until its end.
class Timed {
 public:
  explicit Timed(double& seconds) : seconds_(seconds) {}
  ~Timed() { seconds_ += std::chrono::duration<double>(Clock::now() - begun_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  double& seconds_;
  const Clock::time_point begun_ = Clock::now();
};

}  // namespace

// What one call of `forward` works on. Projections are seen as rows of `stride` numbers, fused or not.
struct Decoder::Step {
  Pool& pool;
  Cache& cache;
  size_t n;
  int64_t start;
  Activations mode;
  float* projected[3];
  size_t stride[3];

  // Buffers of projections whose weights may be fused: where each one's rows start and how far apart they are.
  void lay_out(const std::vector<Linear>& linears, const size_t* rows, size_t count, Numbers* buffers) {
    size_t offset = 0;
    const bool fused = linears.size() == 1;
    for (size_t i = 0; i < count; ++i) {
      stride[i] = fused ? linears[0].matrix->rows() : rows[i];
      Numbers& buffer = buffers[fused ? 0 : i];
      grow(buffer, n * stride[i]);
      projected[i] = buffer.data() + (fused ? offset : 0);
      offset += rows[i];
    }
  }

  template <class F>
  void each_row(size_t rows, F&& f) {
    if (rows < kSplit) {
      for (size_t i = 0; i < rows; ++i) f(i);
    } else {
      pool.split(rows, kSplit, [&](size_t begin, size_t end, size_t) {
        for (size_t i = begin; i < end; ++i) f(i);
      });
    }
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
  const std::vector<Linear>& parts = head_.parts();
  for (const Linear& part : parts) {
    const auto same = [&](const Linear& other) { return &other == &part || share(*other.matrix, *part.matrix); };
    inputs_of_.push_back(std::find_if(parts.begin(), parts.end(), same) - parts.begin());
  }
  inputs_.resize(parts.size());
}

void Decoder::forward(const int64_t* tokens, size_t n, int64_t start, Cache& cache, size_t keep, float* logits,
                      Activations mode) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const size_t width = shape_.width;
  for (Numbers* buffer : {&hidden_, &normed_, &mixed_}) grow(*buffer, n * width);
  Pool::Lease pool = Pool::acquire();
  pool->reserve(scratch(n, mode));
  Step step{*pool, cache, n, start, mode, {}, {}};
  step.each_row(n, [&](size_t i) {
    embedding_.row(static_cast<size_t>(tokens[i]), hidden_.data() + i * width);
    multiply(hidden_.data() + i * width, shape_.embedding_scale, width);
  });
  turn(step);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    attend_layer(step, layer);
    mlp_layer(step, layer);
  }
  if (keep == 0) return;
  expect(step, layers_[0].qkv);
  norm(step, norm_, hidden_.data() + (n - keep) * width, normed_.data(), keep);
  predict(step, normed_.data(), keep, logits);
  if (shape_.logit_cap > 0)
    step.each_row(keep, [&](size_t i) {
      soft_cap(logits + i * shape_.vocabulary, shape_.logit_cap, shape_.vocabulary);
    });
}

void Decoder::attend_layer(Step& step, size_t index) {
  const Layer& layer = layers_[index];
  norm(step, layer.before_attention, hidden_.data(), normed_.data(), step.n);
  const size_t q = layer.heads * layer.head_dim, kv = layer.kv_heads * layer.head_dim;
  const size_t rows[3] = {q, kv, kv};
  step.lay_out(layer.qkv, rows, 3, wide_);
  expect(step, {&layer.output, 1});
  linear(step, layer.qkv, {normed_.data(), static_cast<size_t>(shape_.width)}, step.n, step.projected);
  step.each_row(step.n, [&](size_t i) { place(step, index, i); });
  grow(attended_, step.n * q);
  attend_heads(step, index);
  float* out = mixed_.data();
  expect(step, layer.gate_up);
  linear(step, {&layer.output, 1}, {attended_.data(), q}, step.n, &out);
  residual(step, layer.after_attention, out);
}

void Decoder::mlp_layer(Step& step, size_t index) {
  const Layer& layer = layers_[index];
  norm(step, layer.before_mlp, hidden_.data(), normed_.data(), step.n);
  const size_t inner = layer.down.matrix->cols(), rows[2] = {inner, inner};
  step.lay_out(layer.gate_up, rows, 2, wide_);
  expect(step, {&layer.down, 1});
  linear(step, layer.gate_up, {normed_.data(), static_cast<size_t>(shape_.width)}, step.n, step.projected);
  step.each_row(step.n, [&](size_t i) {
    gated(step.projected[0] + i * step.stride[0], step.projected[1] + i * step.stride[1], inner, layer.gate);
  });
  float* out = mixed_.data();
  expect(step, index + 1 < layers_.size() ? layers_[index + 1].qkv : head_.parts());
  linear(step, {&layer.down, 1}, {step.projected[0], step.stride[0]}, step.n, &out);
  residual(step, layer.after_mlp, out);
}

// Cosines and sines of all positions of this call, once for all layers.
void Decoder::turn(Step& step) {
  for (size_t r = 0; r < ropes_.size(); ++r) {
    const Numbers& frequency = ropes_[r].frequency;
    const size_t half = frequency.size();
    grow(angles_[r], step.n * 2 * half);
    step.each_row(step.n, [&](size_t i) {
      float* cosine = angles_[r].data() + i * 2 * half;
      angles(frequency.data(), half, step.start + static_cast<int64_t>(i), ropes_[r].scaling, cosine, cosine + half);
    });
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

Head Decoder::read(const Step& step, size_t index, size_t kv) const {
  const Layer& layer = layers_[index];
  Head head{{}, {}, layer.head_dim, layer.scale, layer.soft_cap, layer.window};
  step.cache.read(index, static_cast<int64_t>(kv), head);
  return head;
}

// Queries of heads that share keys go together: what is read of the cache serves all of them.
void Decoder::attend_heads(Step& step, size_t index) {
  const Layer& layer = layers_[index];
  const size_t shared = layer.heads / layer.kv_heads, queries = shared * step.n, threads = step.pool.size();
  const bool uneven = step.n == 1 && layer.kv_heads % threads != 0;
  if (uneven && blocks_of(read(step, index, 0), step.start) >= kTogether) return attend_together(step, index);
  const size_t piece = std::clamp<size_t>((layer.heads * step.n + threads - 1) / threads, 1, kQueries);
  const size_t pieces = (queries + piece - 1) / piece;
  step.pool.split(layer.kv_heads * pieces, 1, [&](size_t begin, size_t end, size_t) {
    for (size_t task = begin; task < end; ++task) {
      const size_t kv = task / pieces, low = task % pieces * piece, high = std::min(low + piece, queries);
      Query asked[kQueries];
      for (size_t i = low; i < high; ++i) {
        const size_t token = i / shared, h = kv * shared + i % shared;
        asked[i - low] = {step.projected[0] + token * step.stride[0] + h * layer.head_dim,
                          attended_.data() + (token * layer.heads + h) * layer.head_dim,
                          step.start + static_cast<int64_t>(token)};
      }
      attend(read(step, index, kv), asked, static_cast<int64_t>(high - low));
    }
  });
}

// One token: threads divide the keys, then the queries, then the values, so that each reads a part of the cache.
void Decoder::attend_together(Step& step, size_t index) {
  const Layer& layer = layers_[index];
  const size_t heads = layer.heads, shared = heads / layer.kv_heads, threads = step.pool.size();
  const Head any = read(step, index, 0);
  const size_t blocks = blocks_of(any, step.start), numbers = blocks * Together::kBlock;
  grow(scores_, heads * numbers), grow(keep_, heads * blocks), grow(totals_, heads);
  queries_.resize(std::max(queries_.size(), heads));
  for (size_t h = 0; h < heads; ++h)
    queries_[h] = {step.projected[0] + h * layer.head_dim, attended_.data() + h * layer.head_dim, step.start};
  // f(heads that share keys, begin, end) for a thread's share of `each` items that every such head has.
  const auto divide = [&](size_t thread, size_t each, void (*f)(const Together&, int64_t, int64_t)) {
    const size_t all = layer.kv_heads * each, low = all * thread / threads, high = all * (thread + 1) / threads;
    for (size_t kv = low / each; kv * each < high; ++kv) {
      const size_t first = kv * shared;
      f({read(step, index, kv), &queries_[first], static_cast<int64_t>(shared), &scores_[first * numbers],
         &keep_[first * blocks], &totals_[first]},
        static_cast<int64_t>(std::max(low, kv * each) - kv * each),
        static_cast<int64_t>(std::min(high, (kv + 1) * each) - kv * each));
    }
  };
  step.pool.each([&](size_t thread) {
    divide(thread, blocks, score);
    step.pool.barrier();
    divide(thread, shared, weigh);
    step.pool.barrier();
    divide(thread, slices_of(any), mix);
  });
}

void Decoder::norm(Step& step, const Numbers& weight, const float* x, float* out, size_t n) {
  const size_t width = shape_.width;
  step.each_row(n, [&](size_t i) { rms_norm(x + i * width, weight.data(), shape_.epsilon, width, out + i * width); });
}

void Decoder::residual(Step& step, const Numbers& weight, float* y) {
  const size_t width = shape_.width;
  step.each_row(step.n, [&](size_t i) {
    float* row = y + i * width;
    if (!weight.empty()) rms_norm(row, weight.data(), shape_.epsilon, width, row);
    add(hidden_.data() + i * width, row, width);
  });
}

// Has the threads that wait fetch what they will read first of the next product, while this one is brought to an end.
void Decoder::expect(Step& step, std::span<const Linear> next) {
  size_t tiles = 0;
  for (const Linear& linear : next) tiles += linear.matrix->tiles();
  for (size_t thread = 1; thread < step.pool.size(); ++thread) {
    size_t tile = thread * piece_of(tiles, step.pool.size()), at = 0;
    while (at < next.size() && tile >= next[at].matrix->tiles()) tile -= next[at++].matrix->tiles();
    if (at == next.size()) return;
    const size_t left = (next[at].matrix->tiles() - tile) * next[at].matrix->layout().tile_bytes;
    step.pool.expect(thread, {tile_of(*next[at].matrix, tile), std::min(left, kExpected)});
  }
}

void Decoder::prepare_all(Step& step, const Matrix& matrix, Rows x, size_t n, Inputs& inputs) {
  reserve(matrix, n, step.mode, inputs);
  if (n < kSplit) return prepare(matrix, x.data, x.stride, 0, n, step.mode, inputs);
  step.pool.split(n, kSplit, [&](size_t begin, size_t end, size_t) {
    prepare(matrix, x.data, x.stride, begin, end, step.mode, inputs);
  });
}

// Several weights over the same inputs, which are prepared once where the weights' groups allow it.
void Decoder::linear(Step& step, std::span<const Linear> linears, Rows x, size_t n, float* const* out) {
  const Timed timed(product_seconds_);
  for (size_t at = 0; at < linears.size();) {
    const Matrix& first = *linears[at].matrix;
    prepare_all(step, first, x, n, inputs_[0]);
    size_t stop = at + 1, tiles = first.tiles();
    while (stop < linears.size() && share(first, *linears[stop].matrix)) tiles += linears[stop++].matrix->tiles();
    for (size_t i = at; i < stop; ++i) tabulate(*linears[i].matrix, step.mode, inputs_[0]);
    step.pool.split(tiles, piece_of(tiles, step.pool.size()), [&](size_t begin, size_t end, size_t thread) {
      for (size_t i = at, base = 0; i < stop; base += linears[i++].matrix->tiles()) {
        const Matrix& matrix = *linears[i].matrix;
        const size_t low = std::max(begin, base), high = std::min(end, base + matrix.tiles());
        if (low < high)
          multiply(matrix, inputs_[0], low - base, high - base, out[i], matrix.rows(), step.mode,
                   step.pool.scratch(thread));
      }
    });
    at = stop;
  }
  for (size_t i = 0; i < linears.size(); ++i) {
    const Numbers& bias = linears[i].bias;
    if (!bias.empty()) step.each_row(n, [&](size_t r) { add(out[i] + r * bias.size(), bias.data(), bias.size()); });
  }
}

// Logits (n, vocabulary) of the head's inputs x (n, width). A head of several parts goes slice by slice, all parts of
// a slice after each other in one thread: so no two threads write to the same lines of the logits, or wait in between.
void Decoder::predict(Step& step, const float* x, size_t n, float* logits) {
  const Rows inputs{x, static_cast<size_t>(shape_.width)};
  if (head_.places().empty()) return linear(step, head_.parts(), inputs, n, &logits);
  const Timed timed(product_seconds_);
  for (size_t k = 0; k < inputs_of_.size(); ++k) {
    const Matrix& matrix = *head_.parts()[k].matrix;
    if (inputs_of_[k] == k) prepare_all(step, matrix, inputs, n, inputs_[k]);
    tabulate(matrix, step.mode, inputs_[inputs_of_[k]]);
  }
  predicted_.resize(step.pool.size());
  for (Numbers& buffer : predicted_) grow(buffer, n * Table::kSlice);
  step.pool.split(head_.slices(), 1, [&](size_t begin, size_t end, size_t thread) {
    for (size_t slice = begin; slice < end; ++slice) predict_slice(step, slice, n, thread, logits);
  });
}

void Decoder::predict_slice(Step& step, size_t slice, size_t n, size_t thread, float* logits) {
  float* out = predicted_[thread].data();
  for (size_t k = 0; k < head_.parts().size(); ++k) {
    const auto& [matrix, bias] = head_.parts()[k];
    const std::vector<int32_t>& rows = head_.places()[k];
    if (k + 1 < head_.parts().size()) {
      const uint8_t* data = tile_of(*head_.parts()[k + 1].matrix, head_.first_tile(k + 1, slice));
      for (size_t at = 0; at < kAhead; at += 64) __builtin_prefetch(data + at);
    }
    const size_t low = head_.first_tile(k, slice), high = head_.first_tile(k, slice + 1), first = low * kRows;
    multiply(*matrix, inputs_[inputs_of_[k]], low, high, out - first, Table::kSlice, step.mode,
             step.pool.scratch(thread));
    for (size_t i = 0; i < n; ++i)
      for (size_t r = first; r < std::min(high * kRows, rows.size()); ++r) {
        const float logit = out[i * Table::kSlice + r - first];
        logits[i * shape_.vocabulary + rows[r]] = bias.empty() ? logit : logit + bias[r];
      }
  }
}

size_t Decoder::scratch(size_t n, Activations mode) const {
  size_t most = 0;
  const auto see = [&](const Linear& linear) { most = std::max(most, scratch_bytes(*linear.matrix, n, mode)); };
  for (const Linear& part : head_.parts()) see(part);
  for (const Layer& layer : layers_) {
    for (const Linear& linear : layer.qkv) see(linear);
    for (const Linear& linear : layer.gate_up) see(linear);
    see(layer.output), see(layer.down);
  }
  return most;
}

}  // namespace tailorbird
