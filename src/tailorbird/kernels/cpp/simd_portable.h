// Sixteen lanes in plain C++; the compiler makes of the loops what the processor has.
#pragma once

#include <cstring>

#include "bits.h"

namespace tailorbird {

struct Portable {
  static constexpr int kRegisters = 16;
  static constexpr bool kSignSums = false;
  template <int B>
  static constexpr int kTogether = 1;
  struct I { int32_t v[16]; };
  struct F { float v[16]; };
  struct Codes { alignas(16) uint8_t v[64]; };  // row r, column c at 4 r + c

  template <class T, class G>
  static inline T make(G g) {
    T out;
    for (int i = 0; i < 16; ++i) out.v[i] = g(i);
    return out;
  }
  static inline void prefetch(const void* p) { __builtin_prefetch(p); }
  static inline I izero() { return make<I>([](int) { return 0; }); }
  static inline I iset(int32_t x) { return make<I>([=](int) { return x; }); }
  static inline I iadd(const I& a, const I& b) { return make<I>([&](int i) { return a.v[i] + b.v[i]; }); }
  static inline I isub(const I& a, const I& b) { return make<I>([&](int i) { return a.v[i] - b.v[i]; }); }
  static inline I imul(const I& a, const I& b) { return make<I>([&](int i) { return a.v[i] * b.v[i]; }); }
  static inline I load_u8(const uint8_t* p) { return make<I>([=](int i) { return int32_t{p[i]}; }); }
  static inline I load_i8(const uint8_t* p) { return make<I>([=](int i) { return int32_t{static_cast<int8_t>(p[i])}; }); }
  static inline F to_float(const I& a) { return make<F>([&](int i) { return static_cast<float>(a.v[i]); }); }
  static inline F fset(float x) { return make<F>([=](int) { return x; }); }
  static inline F add(const F& a, const F& b) { return make<F>([&](int i) { return a.v[i] + b.v[i]; }); }
  static inline F sub(const F& a, const F& b) { return make<F>([&](int i) { return a.v[i] - b.v[i]; }); }
  static inline F mul(const F& a, const F& b) { return make<F>([&](int i) { return a.v[i] * b.v[i]; }); }
  static inline F load_f16(const uint8_t* p) { return make<F>([=](int i) { return load_half(p + 2 * i); }); }
  static inline F load(const float* p) { return make<F>([=](int i) { return p[i]; }); }
  static inline I load_int(const int32_t* p) { return make<I>([=](int i) { return p[i]; }); }
  static inline void store_int(int32_t* p, const I& a) { std::memcpy(p, a.v, sizeof a.v); }
  static inline void store(float* p, const F& a) { std::memcpy(p, a.v, sizeof a.v); }

  // Codes of a step from its 8 * B bytes.
  template <int B>
  static inline Codes expand(const uint8_t* p) {
    Codes out;
    for (int q = 0; q < 8; ++q) {
      uint64_t word = 0;
      for (int i = 0; i < B; ++i) word |= uint64_t{p[q * B + i]} << (8 * i);
      word = transpose_bits(word);
      std::memcpy(out.v + 8 * q, &word, 8);
    }
    return out;
  }
  static inline Codes load_codes(const uint8_t* p) {
    Codes out;
    std::memcpy(out.v, p, 64);
    return out;
  }
  static inline void store_codes(uint8_t* p, const Codes& codes) { std::memcpy(p, codes.v, 64); }

  // sum + codes * x over the step's 4 columns. `B`: codes are below 2**B.
  template <int B>
  static inline I dot(const I& sum, const Codes& codes, const int8_t* x) {
    return make<I>([&](int i) {
      const uint8_t* c = codes.v + 4 * i;
      return sum.v[i] + (c[0] * x[0] + c[1] * x[1] + c[2] * x[2] + c[3] * x[3]);
    });
  }
  template <int C>
  static inline F column(const Codes& codes) {
    return make<F>([&](int i) { return static_cast<float>(codes.v[4 * i + C]); });
  }
};

}  // namespace tailorbird
