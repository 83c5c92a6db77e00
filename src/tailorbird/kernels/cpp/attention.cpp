#include "attention.h"

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace tailorbird {

namespace {

constexpr int64_t kBlock = Together::kBlock, kSlice = Together::kSlice;
static_assert(kBlock == kLanes && kSlice == kPair);

constexpr float kNever = -1e30f;

// The first n of sixteen numbers, zeros behind them.
TAILORBIRD_INLINE Floats some(const float* p, int64_t n) {
  float numbers[kLanes] = {};
  std::copy_n(p, n, numbers);
  return load(numbers);
}

TAILORBIRD_INLINE float number(uint16_t half) {
  const uint32_t word = static_cast<uint32_t>(half) << 16;
  float out;
  std::memcpy(&out, &word, sizeof out);
  return out;
}

TAILORBIRD_INLINE float number(int8_t code) { return code; }

// A token's weights have thrown out of the cache what the last one left, so keys and values are fetched a block ahead,
// line by line as they are read: all at once there would be more than the processor keeps waiting.

// Products of Q queries with K keys after each other, a number of `totals[i]` a key; its lanes are still to be added.
template <int Q, int K, class T>
TAILORBIRD_INLINE void products(const Query* queries, const T* keys, int64_t dim, Floats (*totals)[kBlock],
                                int64_t at) {
  Floats total[K][Q] = {};
  int64_t d = 0;
  for (; d + kPair <= dim; d += kPair) {
    Floats low[Q], high[Q];
    for (int i = 0; i < Q; ++i) {
      low[i] = load(queries[i].q + d);
      high[i] = load(queries[i].q + d + kLanes);
    }
    for (int k = 0; k < K; ++k) {
      const Pair key = load_pair(keys + k * dim + d);
      __builtin_prefetch(keys + (k + kBlock) * dim + d);
      for (int i = 0; i < Q; ++i) {
        total[k][i] += low[i] * key.low;
        total[k][i] += high[i] * key.high;
      }
    }
  }
  for (int k = 0; k < K; ++k)
    for (int i = 0; i < Q; ++i) {
      for (int64_t rest = d; rest < dim; ++rest) total[k][i][0] += queries[i].q[rest] * number(keys[k * dim + rest]);
      totals[i][at + k] = total[k][i];
    }
}

// Products of Q queries with the n keys of a block; behind them anything finite.
template <int Q, class T>
TAILORBIRD_INLINE void products_of_block(const Query* queries, const T* keys, int64_t n, int64_t dim,
                                         float (*scores)[kBlock]) {
  constexpr int kTogether = Q <= 4 ? 4 : 2;  // what registers hold
  Floats totals[Q][kBlock];
  int64_t j = 0;
  for (; j + kTogether <= n; j += kTogether) products<Q, kTogether>(queries, keys + j * dim, dim, totals, j);
  for (; j < n; ++j) products<Q, 1>(queries, keys + j * dim, dim, totals, j);
  for (int i = 0; i < Q; ++i) {
    for (j = n; j < kBlock; ++j) totals[i][j] = Floats{};
    store(scores[i], sums(totals[i]));
  }
}

// The part of a cache that a query looks at: whole blocks of keys from `first` on, up to `end`.
struct Reach {
  int64_t first, end;
};
Reach reach(const Head& head, int64_t from, int64_t to) {
  const int64_t end = to + 1, window = head.window > 0 ? head.window : end;
  return {std::max<int64_t>(0, from - window + 1) / kBlock * kBlock, end};
}

// Scores of Q queries, `stride` apart, with the block of keys that begins at `start`; kNever for those that a query may
// not see.
template <int Q, class T>
TAILORBIRD_INLINE void score_block(const Head& head, const Query* queries, const T* keys, int64_t start, int64_t end,
                                   float* scores, int64_t stride) {
  const int64_t n = std::min(kBlock, end - start), window = head.window > 0 ? head.window : end;
  float raw[Q][kBlock];
  products_of_block<Q>(queries, keys + start * head.dim, n, head.dim, raw);
  const Floats key_scale = head.keys.scales ? some(head.keys.scales + start, n) : broadcast(1);
  for (int i = 0; i < Q; ++i) {
    for (int64_t j = 0; j < kBlock; ++j) {
      const int64_t back = queries[i].position - (start + j);
      if (j >= n || back < 0 || back >= window) raw[i][j] = kNever;
    }
    const Floats product = load(raw[i]);
    Floats s = product * key_scale * head.scale;
    if (head.soft_cap > 0) s = head.soft_cap * hyperbolic_tangent(s / head.soft_cap);
    store(scores + i * stride, product == broadcast(kNever) ? broadcast(kNever) : s);
  }
}

// Softmax with a running maximum (Milakov and Gimelshein, arXiv 1805.02867).
struct Softmax {
  float most = kNever, total = 0;

  // Makes weights of the scores of a block, and returns what those before it are to be multiplied with.
  inline __attribute__((always_inline)) float weigh(float* scores, Floats value_scale) {
    const Floats s = load(scores);
    const float before = most;
    most = std::max(most, highest(s));
    const Floats weights = s == broadcast(kNever) ? Floats{} : exponential(s - most);
    const float keep = before == kNever ? 0.0f : std::exp(before - most);
    total = total * keep + sum(weights);
    store(scores, weights * value_scale);
    return keep;
  }
};

TAILORBIRD_INLINE Floats value_scale(const Head& head, int64_t start, int64_t end) {
  return head.values.scales ? some(head.values.scales + start, std::min(kBlock, end - start)) : broadcast(1);
}

// out[i] = out[i] * keep[i] + sum over n values of weights[i][j] * values[j], for Q queries whose weights are `stride`
// apart and numbers from..to of the values. The sum is taken first: where a product could be fused with one addition
// or another, Q would decide which.
template <int Q, class T>
TAILORBIRD_INLINE void mix_block(const Query* queries, const float* keep, const float* weights, int64_t stride,
                                 const T* values, int64_t n, int64_t dim, int64_t from, int64_t to) {
  int64_t d = from;
  for (; d + kPair <= to; d += kPair) {
    Floats low[Q] = {}, high[Q] = {};
    for (int64_t j = 0; j < n; ++j) {
      const Pair value = load_pair(values + j * dim + d);
      __builtin_prefetch(values + (j + kBlock) * dim + d);
      for (int i = 0; i < Q; ++i) {
        low[i] += weights[i * stride + j] * value.low;
        high[i] += weights[i * stride + j] * value.high;
      }
    }
    for (int i = 0; i < Q; ++i) {
      float* out = queries[i].out + d;
      store(out, load(out) * keep[i] + low[i]);
      store(out + kLanes, load(out + kLanes) * keep[i] + high[i]);
    }
  }
  for (; d < to; ++d)
    for (int i = 0; i < Q; ++i) {
      float total = 0;
      for (int64_t j = 0; j < n; ++j) total += weights[i * stride + j] * number(values[j * dim + d]);
      queries[i].out[d] = queries[i].out[d] * keep[i] + total;
    }
}

// Memory does not grow with the context. Blocks begin at the same positions for all queries, so that a query's result
// is the same whatever others are looked at with it.
template <int Q, class T>
TAILORBIRD_INLINE void attend_to(const Head& head, const Query* queries, const T* keys, const T* values) {
  Softmax softmax[Q];
  float keep[Q], scores[Q * kBlock];
  for (int i = 0; i < Q; ++i) std::fill_n(queries[i].out, head.dim, 0.0f);
  const Reach to = reach(head, queries[0].position, queries[Q - 1].position);
  for (int64_t start = to.first; start < to.end; start += kBlock) {
    const int64_t n = std::min(kBlock, to.end - start);
    score_block<Q>(head, queries, keys, start, to.end, scores, kBlock);
    const Floats scale = value_scale(head, start, to.end);
    for (int i = 0; i < Q; ++i) keep[i] = softmax[i].weigh(scores + i * kBlock, scale);
    mix_block<Q>(queries, keep, scores, kBlock, values + start * head.dim, n, head.dim, 0, head.dim);
  }
  for (int i = 0; i < Q; ++i)
    for (int64_t d = 0; d < head.dim; ++d) queries[i].out[d] /= softmax[i].total;
}

// f<Q>(i) for queries i to i + Q, as many at a time as registers allow.
template <class F>
TAILORBIRD_INLINE void by_some(int64_t count, F&& f) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) f.template operator()<8>(i);
  for (; i + 4 <= count; i += 4) f.template operator()<4>(i);
  for (; i + 2 <= count; i += 2) f.template operator()<2>(i);
  if (i < count) f.template operator()<1>(i);
}

template <class T>
TAILORBIRD_INLINE void attend_any(const Head& head, const Query* queries, int64_t count, const T* keys,
                                  const T* values) {
  by_some(count, [&]<int Q>(int64_t i) __attribute__((always_inline)) {
    attend_to<Q>(head, queries + i, keys, values);
  });
}

template <class T>
TAILORBIRD_INLINE void score_any(const Together& all, const T* keys, int64_t begin, int64_t end) {
  const Head& head = all.head;
  const int64_t position = all.queries[0].position, stride = kBlock * blocks_of(head, position);
  const Reach to = reach(head, position, position);
  by_some(all.count, [&]<int Q>(int64_t i) __attribute__((always_inline)) {
    for (int64_t block = begin; block < end; ++block) {
      float* scores = all.scores + i * stride + block * kBlock;
      score_block<Q>(head, all.queries + i, keys, to.first + kBlock * block, to.end, scores, stride);
    }
  });
}

template <class T>
TAILORBIRD_INLINE void mix_any(const Together& all, const T* values, int64_t begin, int64_t end) {
  const Head& head = all.head;
  const int64_t position = all.queries[0].position, blocks = blocks_of(head, position);
  const Reach to = reach(head, position, position);
  const int64_t low = kSlice * begin, high = end < slices_of(head) ? kSlice * end : head.dim;
  for (int64_t i = 0; i < all.count; ++i) std::fill_n(all.queries[i].out + low, high - low, 0.0f);
  by_some(all.count, [&]<int Q>(int64_t i) __attribute__((always_inline)) {
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t start = to.first + kBlock * block, at = i * blocks + block;
      float keep[Q];
      for (int q = 0; q < Q; ++q) keep[q] = all.keep[at + q * blocks];
      mix_block<Q>(all.queries + i, keep, all.scores + at * kBlock, blocks * kBlock, values + start * head.dim,
                   std::min(kBlock, to.end - start), head.dim, low, high);
    }
  });
  for (int64_t i = 0; i < all.count; ++i)
    for (int64_t d = low; d < high; ++d) all.queries[i].out[d] /= all.totals[i];
}

}  // namespace

TAILORBIRD_CLONES void attend(const Head& head, const Query* queries, int64_t count) {
  if (head.keys.bf16)
    attend_any(head, queries, count, head.keys.bf16, head.values.bf16);
  else
    attend_any(head, queries, count, head.keys.int8, head.values.int8);
}

int64_t blocks_of(const Head& head, int64_t position) {
  const Reach to = reach(head, position, position);
  return (to.end - to.first + kBlock - 1) / kBlock;
}

int64_t slices_of(const Head& head) { return std::max<int64_t>(1, head.dim / kSlice); }

TAILORBIRD_CLONES void score(const Together& all, int64_t begin, int64_t end) {
  if (all.head.keys.bf16)
    score_any(all, all.head.keys.bf16, begin, end);
  else
    score_any(all, all.head.keys.int8, begin, end);
}

TAILORBIRD_CLONES void weigh(const Together& all, int64_t begin, int64_t end) {
  const int64_t position = all.queries[0].position, blocks = blocks_of(all.head, position);
  const Reach to = reach(all.head, position, position);
  for (int64_t i = begin; i < end; ++i) {
    Softmax softmax;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t at = i * blocks + block;
      const Floats scale = value_scale(all.head, to.first + kBlock * block, to.end);
      all.keep[at] = softmax.weigh(all.scores + at * kBlock, scale);
    }
    all.totals[i] = softmax.total;
  }
}

TAILORBIRD_CLONES void mix(const Together& all, int64_t begin, int64_t end) {
  if (all.head.values.bf16)
    mix_any(all, all.head.values.bf16, begin, end);
  else
    mix_any(all, all.head.values.int8, begin, end);
}

}  // namespace tailorbird
