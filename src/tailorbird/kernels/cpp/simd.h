// Sixteen floats at a time in the compiler's own vector types: one source, and each clone of a function gets the
// instructions of its processor.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(TAILORBIRD_SANITIZE)
#define TAILORBIRD_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define TAILORBIRD_CLONES
#endif

namespace tailorbird {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

// Everything below is inlined into the clones, so that it is compiled for their processor.
#define TAILORBIRD_INLINE static inline __attribute__((always_inline))

TAILORBIRD_INLINE Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

TAILORBIRD_INLINE void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

TAILORBIRD_INLINE Floats broadcast(float x) { return x - Floats{}; }

TAILORBIRD_INLINE float sum(Floats v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// exp(x) within two units in the last place: 2**n * p(r), with r = x - n ln 2 in [-ln 2 / 2, ln 2 / 2].
TAILORBIRD_INLINE Floats exponential(Floats x) {
  const Floats low = broadcast(-87.0f), high = broadcast(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Floats magic = broadcast(12582912.0f);  // adding it rounds to a whole number
  const Floats n = (x * 1.44269504f + magic) - magic;
  Floats r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Floats p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

}  // namespace tailorbird
