// Sixteen floats at a time in the compiler's own vector types: one source, and each clone of a function gets the
// instructions of its processor.
#pragma once

#include <cstdint>
#include <cstring>

// Levels of the x86-64 psABI, which say what a processor can do, not whose it is. Compilers that don't know them here
// make the plain form alone.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && \
    !defined(TAILORBIRD_SANITIZE)
#define TAILORBIRD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TAILORBIRD_CLONES
#endif

namespace tailorbird {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));

// Everything below is inlined into the clones, so that it is compiled for their processor.
#define TAILORBIRD_INLINE static inline __attribute__((always_inline))

TAILORBIRD_INLINE Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

TAILORBIRD_INLINE void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

TAILORBIRD_INLINE Floats broadcast(float x) { return x - Floats{}; }

// Sixteen numbers in bfloat16, or of 8 bits, as floats.
TAILORBIRD_INLINE Floats load(const uint16_t* p) {
  Halves v;
  std::memcpy(&v, p, sizeof v);
  const Ints words = __builtin_convertvector(v, Ints) << 16;
  Floats out;
  std::memcpy(&out, &words, sizeof out);
  return out;
}

TAILORBIRD_INLINE Floats load(const int8_t* p) {
  Bytes v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(__builtin_convertvector(v, Ints), Floats);
}

// In pairs, so that the additions don't wait for each other.
TAILORBIRD_INLINE float sum(Floats v) {
  float a[kLanes];
  std::memcpy(a, &v, sizeof a);
  for (int n = kLanes / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) a[i] += a[i + n];
  return a[0];
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
