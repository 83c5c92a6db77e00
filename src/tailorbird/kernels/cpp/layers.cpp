#include "layers.h"

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace tailorbird {

namespace {

static_assert(kLanes == 16);
constexpr int64_t kBlock = kLanes;  // keys looked at together: as floats they stay in the first cache
constexpr float kNever = -1e30f;

TAILORBIRD_INLINE float dot(const float* a, const float* b, int64_t n) {
  Floats total{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total += load(a + i) * load(b + i);
  float rest = sum(total);
  for (; i < n; ++i) rest += a[i] * b[i];
  return rest;
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

// `count` keys (or values) from position `start` as floats, one after the other.
TAILORBIRD_INLINE void unpack(const Stored& from, int64_t start, int64_t count, int64_t dim, float* out) {
  for (int64_t j = 0; j < count; ++j) {
    const int64_t at = (start + j) * dim;
    if (from.bf16) {
      for (int64_t d = 0; d < dim; ++d) {
        const uint32_t word = static_cast<uint32_t>(from.bf16[at + d]) << 16;
        std::memcpy(&out[j * dim + d], &word, sizeof word);
      }
    } else {
      const float scale = from.scales[start + j];
      for (int64_t d = 0; d < dim; ++d) out[j * dim + d] = scale * from.int8[at + d];
    }
  }
}

// Scores of one query against a block of keys.
TAILORBIRD_INLINE void score(const Head& head, const float* q, const float* keys, int64_t count, float* out) {
  for (int64_t j = 0; j < count; ++j) {
    float s = head.scale * dot(q, keys + j * head.dim, head.dim);
    if (head.soft_cap > 0) s = head.soft_cap * std::tanh(s / head.soft_cap);
    out[j] = s;
  }
}

// out = out * keep + sum_j weights[j] * values[j].
TAILORBIRD_INLINE void mix(float* out, float keep, const float* weights, const float* values, int64_t count,
                           int64_t dim) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= dim; d += 4 * kLanes) {
    Floats a = load(out + d) * keep, b = load(out + d + 16) * keep;
    Floats c = load(out + d + 32) * keep, e = load(out + d + 48) * keep;
    for (int64_t j = 0; j < count; ++j) {
      const float* v = values + j * dim + d;
      const float w = weights[j];
      a += w * load(v);
      b += w * load(v + 16);
      c += w * load(v + 32);
      e += w * load(v + 48);
    }
    store(out + d, a), store(out + d + 16, b), store(out + d + 32, c), store(out + d + 48, e);
  }
  for (; d < dim; ++d) {
    float total = out[d] * keep;
    for (int64_t j = 0; j < count; ++j) total += weights[j] * values[j * dim + d];
    out[d] = total;
  }
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

uint16_t to_bf16(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  return static_cast<uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);  // to nearest, ties to even
}

float to_int8(const float* x, int64_t dim, int8_t* out) {
  float most = 0;
  for (int64_t d = 0; d < dim; ++d) most = std::max(most, std::fabs(x[d]));
  const float inverse = most > 0 ? 127.0f / most : 0.0f;
  for (int64_t d = 0; d < dim; ++d) out[d] = static_cast<int8_t>(std::nearbyint(x[d] * inverse));
  return most / 127.0f;
}

int64_t attend_scratch(int64_t dim) { return 2 * kBlock * dim + kBlock; }

// Softmax over blocks of keys with a running maximum, so that memory does not grow with the context
// (Milakov and Gimelshein, arXiv 1805.02867).
TAILORBIRD_CLONES void attend(const Head& head, const Query* queries, int64_t count, float* scratch) {
  float* keys = scratch;
  float* values = keys + kBlock * head.dim;
  float* scores = values + kBlock * head.dim;
  float most[kQueries], total[kQueries];
  for (int64_t i = 0; i < count; ++i) {
    most[i] = kNever;
    total[i] = 0;
    std::fill_n(queries[i].out, head.dim, 0.0f);
  }
  const int64_t end = queries[count - 1].position + 1;
  int64_t start = head.window > 0 ? std::max<int64_t>(0, queries[0].position - head.window + 1) : 0;
  for (; start < end; start += kBlock) {
    const int64_t n = std::min(kBlock, end - start);
    unpack(head.keys, start, n, head.dim, keys);
    unpack(head.values, start, n, head.dim, values);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t own = queries[i].position;
      const int64_t low = head.window > 0 ? std::max<int64_t>(0, own - head.window + 1 - start) : 0;
      const int64_t high = std::min(n, own + 1 - start);
      if (low >= high) continue;
      const float before = most[i];
      for (int64_t j = 0; j < kBlock; ++j) scores[j] = kNever;
      score(head, queries[i].q, keys + low * head.dim, high - low, scores);
      for (int64_t j = 0; j < high - low; ++j) most[i] = std::max(most[i], scores[j]);
      Floats weights = exponential(load(scores) - most[i]);
      store(scores, weights);
      float added = 0;
      for (int64_t j = 0; j < high - low; ++j) added += scores[j];
      const float keep = before == kNever ? 0.0f : std::exp(before - most[i]);
      total[i] = total[i] * keep + added;
      mix(queries[i].out, keep, scores, values + low * head.dim, high - low, head.dim);
    }
  }
  for (int64_t i = 0; i < count; ++i) multiply(queries[i].out, 1.0f / total[i], head.dim);
}

}  // namespace tailorbird
