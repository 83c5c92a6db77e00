#include "layers.h"

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace tailorbird {

namespace {

constexpr int64_t kBlock = kLanes;  // keys looked at together
constexpr int64_t kPair = 2 * kLanes;
constexpr float kNever = -1e30f;

TAILORBIRD_INLINE float dot(const float* a, const float* b, int64_t n) {
  Floats total{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total += load(a + i) * load(b + i);
  float rest = sum(total);
  for (; i < n; ++i) rest += a[i] * b[i];
  return rest;
}

// The first n of sixteen numbers, zeros behind them.
TAILORBIRD_INLINE Floats some(const float* p, int64_t n) {
  float numbers[kLanes] = {};
  std::copy_n(p, n, numbers);
  return load(numbers);
}

TAILORBIRD_INLINE Floats hyperbolic_tangent(Floats x) {
  const Floats e = exponential(2.0f * x);
  return 1.0f - 2.0f / (e + 1.0f);
}

TAILORBIRD_INLINE Floats activate(Floats x, Gate kind) {
  if (kind == Gate::silu) return x / (1.0f + exponential(-x));
  const Floats inner = 0.7978845608f * (x + 0.044715f * x * x * x);
  return 0.5f * x * (1.0f + hyperbolic_tangent(inner));
}

// The word whose upper half is the number in bfloat16: to nearest, ties to even.
TAILORBIRD_INLINE uint32_t rounded(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  return word + 0x7fff + ((word >> 16) & 1);
}

TAILORBIRD_INLINE Words rounded(Floats x) {
  Words words;
  std::memcpy(&words, &x, sizeof words);
  return words + 0x7fff + ((words >> 16) & 1);
}

TAILORBIRD_INLINE float number(uint16_t half) {
  const uint32_t word = static_cast<uint32_t>(half) << 16;
  float out;
  std::memcpy(&out, &word, sizeof out);
  return out;
}

TAILORBIRD_INLINE float number(int8_t code) { return code; }

// Products of Q queries with K keys after each other, a number of `totals[i]` a key; its lanes are still to be added.
template <int Q, int K, class T>
TAILORBIRD_INLINE void products(const Query* queries, const T* keys, int64_t dim, Floats (*totals)[kBlock], int64_t at) {
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

// out[i] = out[i] * keep[i] + sum over n values of weights[i][j] * values[j], for Q queries. The sum is taken first:
// where a product could be fused with one addition or another, Q would decide which.
template <int Q, class T>
TAILORBIRD_INLINE void mix(const Query* queries, const float* keep, const float (*weights)[kBlock], const T* values,
                           int64_t n, int64_t dim) {
  int64_t d = 0;
  for (; d + kPair <= dim; d += kPair) {
    Floats low[Q] = {}, high[Q] = {};
    for (int64_t j = 0; j < n; ++j) {
      const Pair value = load_pair(values + j * dim + d);
      for (int i = 0; i < Q; ++i) {
        low[i] += weights[i][j] * value.low;
        high[i] += weights[i][j] * value.high;
      }
    }
    for (int i = 0; i < Q; ++i) {
      float* out = queries[i].out + d;
      store(out, load(out) * keep[i] + low[i]);
      store(out + kLanes, load(out + kLanes) * keep[i] + high[i]);
    }
  }
  for (; d < dim; ++d)
    for (int i = 0; i < Q; ++i) {
      float total = 0;
      for (int64_t j = 0; j < n; ++j) total += weights[i][j] * number(values[j * dim + d]);
      queries[i].out[d] = queries[i].out[d] * keep[i] + total;
    }
}

// Has numbers brought into the cache that are wanted soon: a token's weights have thrown out what the last one left.
template <class T>
TAILORBIRD_INLINE void fetch(const T* numbers, int64_t count) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(numbers);
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(bytes + i);
}

// Softmax over blocks of keys with a running maximum, so that memory does not grow with the context
// (Milakov and Gimelshein, arXiv 1805.02867). Keys that a query may not see get the weight 0. Blocks begin at the same
// positions for all queries, so that a query's result is the same whatever others are looked at with it.
template <int Q, class T>
TAILORBIRD_INLINE void attend_to(const Head& head, const Query* queries, const T* keys, const T* values) {
  float most[Q], total[Q], keep[Q], scores[Q][kBlock];
  for (int i = 0; i < Q; ++i) {
    most[i] = kNever;
    total[i] = 0;
    std::fill_n(queries[i].out, head.dim, 0.0f);
  }
  const int64_t end = queries[Q - 1].position + 1, window = head.window > 0 ? head.window : end;
  const int64_t first = std::max<int64_t>(0, queries[0].position - window + 1);
  for (int64_t start = first / kBlock * kBlock; start < end; start += kBlock) {
    const int64_t n = std::min(kBlock, end - start), next = std::min(2 * kBlock, end - start) - n;
    fetch(keys + (start + n) * head.dim, next * head.dim);
    fetch(values + start * head.dim, n * head.dim);
    products_of_block<Q>(queries, keys + start * head.dim, n, head.dim, scores);
    for (int i = 0; i < Q; ++i)
      for (int64_t j = 0; j < kBlock; ++j) {
        const int64_t back = queries[i].position - (start + j);
        if (j >= n || back < 0 || back >= window) scores[i][j] = kNever;
      }
    const Floats key_scale = head.keys.scales ? some(head.keys.scales + start, n) : broadcast(1);
    const Floats value_scale = head.values.scales ? some(head.values.scales + start, n) : broadcast(1);
    for (int i = 0; i < Q; ++i) {
      const Floats raw = load(scores[i]);
      Floats s = raw * key_scale * head.scale;
      if (head.soft_cap > 0) s = head.soft_cap * hyperbolic_tangent(s / head.soft_cap);
      s = raw == broadcast(kNever) ? broadcast(kNever) : s;
      const float before = most[i];
      most[i] = std::max(before, highest(s));
      Floats weights = exponential(s - most[i]);
      weights = s == broadcast(kNever) ? Floats{} : weights;
      keep[i] = before == kNever ? 0.0f : std::exp(before - most[i]);
      total[i] = total[i] * keep[i] + sum(weights);
      store(scores[i], weights * value_scale);
    }
    mix<Q>(queries, keep, scores, values + start * head.dim, n, head.dim);
  }
  for (int i = 0; i < Q; ++i)
    for (int64_t d = 0; d < head.dim; ++d) queries[i].out[d] /= total[i];
}

template <class T>
TAILORBIRD_INLINE void attend_any(const Head& head, const Query* queries, int64_t count, const T* keys,
                                  const T* values) {
  for (; count >= 8; count -= 8, queries += 8) attend_to<8>(head, queries, keys, values);
  for (; count >= 4; count -= 4, queries += 4) attend_to<4>(head, queries, keys, values);
  for (; count >= 2; count -= 2, queries += 2) attend_to<2>(head, queries, keys, values);
  if (count) attend_to<1>(head, queries, keys, values);
}

}  // namespace

TAILORBIRD_CLONES void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const float factor = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void angles(const float* frequency, int64_t half, int64_t position, float scaling, float* cosine, float* sine) {
  for (int64_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * frequency[i];
    cosine[i] = std::cos(angle) * scaling;
    sine[i] = std::sin(angle) * scaling;
  }
}

TAILORBIRD_CLONES void rotate(float* head, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + half] = b * cosine[i] + a * sine[i];
  }
}

TAILORBIRD_CLONES void gated(float* gate, const float* up, int64_t n, Gate kind) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(gate + i, activate(load(gate + i), kind) * load(up + i));
  for (; i < n; ++i) gate[i] = activate(broadcast(gate[i]), kind)[0] * up[i];
}

TAILORBIRD_CLONES void add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

TAILORBIRD_CLONES void multiply(float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

TAILORBIRD_CLONES void soft_cap(float* x, float cap, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, cap * hyperbolic_tangent(load(x + i) / cap));
  for (; i < n; ++i) x[i] = cap * std::tanh(x[i] / cap);
}

TAILORBIRD_CLONES void to_bf16(const float* x, int64_t dim, uint16_t* out) {
  int64_t d = 0;
  for (; d + kPair <= dim; d += kPair) {
    const Words low = rounded(load(x + d)) >> 16, high = rounded(load(x + d + kLanes)) & 0xffff0000u;
    const Words both = low | high;
    std::memcpy(out + d, &both, sizeof both);
  }
  for (; d < dim; ++d) out[d] = static_cast<uint16_t>(rounded(x[d]) >> 16);
}

float to_int8(const float* x, int64_t dim, int8_t* out) {
  float most = 0;
  for (int64_t d = 0; d < dim; ++d) most = std::max(most, std::fabs(x[d]));
  const float inverse = most > 0 ? 127.0f / most : 0.0f;
  for (int64_t d = 0; d < dim; ++d) {
    const float code = std::nearbyint(x[d] * inverse);
    // What is no number, and what overflows beside the smallest of numbers, has no code.
    out[d] = std::fabs(code) <= 127 ? static_cast<int8_t>(code) : int8_t{0};
  }
  return most / 127.0f;
}

TAILORBIRD_CLONES void attend(const Head& head, const Query* queries, int64_t count) {
  if (head.keys.bf16)
    attend_any(head, queries, count, head.keys.bf16, head.values.bf16);
  else
    attend_any(head, queries, count, head.keys.int8, head.values.int8);
}

}  // namespace tailorbird
