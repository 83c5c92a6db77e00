// Sixteen floats at a time in the compiler's own vector types: one source, and each clone of a function gets the
// instructions of its processor.
#pragma once

#include <cstdint>
#include <cstring>

// Levels of the x86-64 psABI, which say what a processor can do, not whose it is. Compilers that don't know them here
// make the plain form alone.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define TAILORBIRD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TAILORBIRD_CLONES
#endif

namespace tailorbird {

constexpr int kLanes = 16;
constexpr int64_t kPair = 2 * kLanes;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef float Halves __attribute__((vector_size(32)));
typedef float Quarters __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int8_t Bytes __attribute__((vector_size(16)));

// Everything below is inlined into the clones, so that it is compiled for their processor.
#define TAILORBIRD_INLINE static inline __attribute__((always_inline))

TAILORBIRD_INLINE Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

TAILORBIRD_INLINE void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

// By way of an array: of a vector written out, GCC makes sixteen instructions in a clone for AVX-512.
TAILORBIRD_INLINE Floats broadcast(float x) {
  float a[kLanes];
  for (int i = 0; i < kLanes; ++i) a[i] = x;
  return load(a);
}

// Thirty-two numbers of a key or a value.
struct Pair {
  Floats low, high;
};

// In bfloat16, number i beside number 16 + i: a word holds both, and each is taken out of it by one instruction.
TAILORBIRD_INLINE Pair load_pair(const uint16_t* p) {
  Ints words;
  std::memcpy(&words, p, sizeof words);
  const Ints low = words << 16, high = words & static_cast<int32_t>(0xffff0000u);
  Pair out;
  std::memcpy(&out.low, &low, sizeof low);
  std::memcpy(&out.high, &high, sizeof high);
  return out;
}

TAILORBIRD_INLINE Pair load_pair(const int8_t* p) {
  Bytes v[2];
  std::memcpy(v, p, sizeof v);
  return {__builtin_convertvector(__builtin_convertvector(v[0], Ints), Floats),
          __builtin_convertvector(__builtin_convertvector(v[1], Ints), Floats)};
}

// Half of the lanes with the other half, and so on: what is left is one number. Compilers make loops in memory of the
// same said by index.
template <class F>
TAILORBIRD_INLINE float folded(Floats v, F f) {
  Halves a[2];
  std::memcpy(a, &v, sizeof a);
  a[0] = f(a[0], a[1]);
  Quarters b[2];
  std::memcpy(b, a, sizeof b);
  b[0] = f(b[0], b[1]);
  return f(f(b[0][0], b[0][2]), f(b[0][1], b[0][3]));
}

TAILORBIRD_INLINE float sum(Floats v) {
  return folded(v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}

TAILORBIRD_INLINE float highest(Floats v) {
  return folded(v, [](auto a, auto b) __attribute__((always_inline)) { return b > a ? b : a; });
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TAILORBIRD_SHUFFLE
#endif
#endif

// The sums of sixteen, each in its lane: as `sum` adds, but lanes of many at once.
TAILORBIRD_INLINE Floats sums(const Floats* v) {
#ifdef TAILORBIRD_SHUFFLE
  Floats a[8], b[4], c[2];
  for (int i = 0; i < 8; ++i)
    a[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(v[2 * i], v[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  for (int i = 0; i < 4; ++i)
    b[i] = __builtin_shufflevector(a[2 * i], a[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(a[2 * i], a[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  for (int i = 0; i < 2; ++i)
    c[i] = __builtin_shufflevector(b[2 * i], b[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           __builtin_shufflevector(b[2 * i], b[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
  return __builtin_shufflevector(c[0], c[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
         __builtin_shufflevector(c[0], c[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#else
  Floats out;
  for (int i = 0; i < kLanes; ++i) out[i] = sum(v[i]);
  return out;
#endif
}

// Adding it rounds to a whole number, which then stands in the last bits.
constexpr float kWhole = 12582912.0f;

// 2**(n + f) within three units in the last place, for f from -1/2 to 1/2; `shifted` is n + kWhole.
TAILORBIRD_INLINE Floats power_of_two(Floats shifted, Floats f) {
  Floats p = broadcast(1.32647238e-3f);
  p = p * f + 9.67151299e-3f;
  p = p * f + 5.55073358e-2f;
  p = p * f + 2.40222424e-1f;
  p = p * f + 6.93147004e-1f;
  p = p * f + 1.0f;
  Words n, bits;
  std::memcpy(&n, &shifted, sizeof n);
  std::memcpy(&bits, &p, sizeof bits);
  bits += n << 23;
  std::memcpy(&p, &bits, sizeof p);
  return p;
}

// exp(x) within three units in the last place, for x cut off at -87 and 88. What is no number stays none.
TAILORBIRD_INLINE Floats exponential(Floats x) {
  const Floats low = broadcast(-87.0f), high = broadcast(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Floats shifted = x * 1.44269504f + kWhole, n = shifted - kWhole;
  const Floats rest = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, the first of few digits
  const Floats power = power_of_two(shifted, rest * 1.44269504f);
  return x == x ? power : x;
}

TAILORBIRD_INLINE Floats hyperbolic_tangent(Floats x) {
  const Floats e = exponential(2.0f * x);
  return 1.0f - 2.0f / (e + 1.0f);
}

}  // namespace tailorbird
