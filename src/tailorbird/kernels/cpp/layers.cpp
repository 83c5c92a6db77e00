#include "layers.h"

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace tailorbird {

namespace {

TAILORBIRD_INLINE float dot(const float* a, const float* b, int64_t n) {
  Floats total{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total += load(a + i) * load(b + i);
  float rest = sum(total);
  for (; i < n; ++i) rest += a[i] * b[i];
  return rest;
}

TAILORBIRD_INLINE Floats activate(Floats x, Gate kind) {
  if (kind == Gate::silu) return x / (1.0f + exponential(-x));
  const Floats inner = 0.7978845608f * (x + 0.044715f * x * x * x);
  return 0.5f * x * (1.0f + hyperbolic_tangent(inner));
}

constexpr uint32_t kNoNumber = 0x7fc00000;

// The word whose upper half is the number in bfloat16: to nearest, ties to even. What is no number stays none.
TAILORBIRD_INLINE uint32_t rounded(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  return x == x ? word + 0x7fff + ((word >> 16) & 1) : kNoNumber;
}

TAILORBIRD_INLINE Words rounded(Floats x) {
  Words words;
  std::memcpy(&words, &x, sizeof words);
  return x == x ? words + 0x7fff + ((words >> 16) & 1) : Words{} + kNoNumber;
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

}  // namespace tailorbird
