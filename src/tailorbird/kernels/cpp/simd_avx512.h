// Sixteen lanes of AVX-512 with VNNI, VBMI and GFNI.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace tailorbird {

struct Avx512 {
  static constexpr int kRegisters = 32;
  static constexpr bool kSignSums = true;
  using I = __m512i;
  using F = __m512;
  using Codes = __m512i;

  static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static inline I izero() { return _mm512_setzero_si512(); }
  static inline I iset(int32_t x) { return _mm512_set1_epi32(x); }
  static inline I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
  static inline I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static inline I imul(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static inline I load_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
  static inline I load_i8(const uint8_t* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
  static inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static inline F fset(float x) { return _mm512_set1_ps(x); }
  static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
  static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static inline F load_f16(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  static inline F load(const float* p) { return _mm512_loadu_ps(p); }
  static inline I load_int(const int32_t* p) { return _mm512_load_si512(p); }
  static inline void store_int(int32_t* p, I a) { _mm512_store_si512(p, a); }
  static inline void store(float* p, F a) { _mm512_storeu_ps(p, a); }

  // Steps that `dots` expands at once: as many codes as fit into a byte, four at most.
  template <int B>
  static constexpr int kTogether = B <= 2 ? 4 : B <= 4 ? 2 : 1;

  // Byte 7 - i of qword q is plane i of 8 codes, where the affine product wants row 7 - i: byte q * B + i of a step;
  // the planes of the next step, 8 * B bytes on, follow those of the first.
  template <int B, int T>
  struct Spread {
    alignas(64) uint8_t index[64];
    uint64_t mask;
    constexpr Spread() : index(), mask(0) {
      for (int q = 0; q < 8; ++q)
        for (int i = 0; i < B * T; ++i) {
          index[8 * q + 7 - i] = static_cast<uint8_t>(i / B * 8 * B + q * B + i % B);
          mask |= uint64_t{1} << (8 * q + 7 - i);
        }
    }
  };
  template <int B, int T>
  static constexpr Spread<B, T> spread{};

  // One byte permutation puts the planes of 8 codes into a qword; the affine product of that 8 x 8 bit matrix with
  // the unit vectors is its transpose: 8 codes, of T steps side by side in each byte.
  template <int B, int T = 1>
  static inline Codes expand(const uint8_t* p) {
    __m512i data;
    if constexpr (B * T <= 2)
      data = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
    else if constexpr (B * T <= 4)
      data = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)p));
    else
      data = _mm512_loadu_si512(p);
    const auto& to = spread<B, T>;
    const __m512i planes = _mm512_maskz_permutexvar_epi8(to.mask, _mm512_load_si512(to.index), data);
    const __m512i units = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201ull));
    return _mm512_gf2p8affine_epi64_epi8(units, planes, 0);
  }
  // Codes of step t are 2**(B * t) times as large.
  template <int B, int T>
  static inline void expand_many(const uint8_t* p, Codes* codes) {
    const Codes all = expand<B, T>(p);
    for (int t = 0; t < T; ++t)
      codes[t] = _mm512_and_si512(all, _mm512_set1_epi8(static_cast<char>(((1 << B) - 1) << (B * t))));
  }
  // Where the sums of four steps' signs stand: the affine product, as in `expand`, gives the signs of a column side by
  // side; two more planes, always the same, say which column it is.
  static inline I places(const uint8_t* p) {
    const __m512i signs = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)p));
    const auto& to = spread<1, 4>;
    const __m512i columns = _mm512_set1_epi64(0xAACC0000);
    const __m512i planes = _mm512_mask_permutexvar_epi8(columns, to.mask, _mm512_load_si512(to.index), signs);
    const __m512i units = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201ull));
    return _mm512_gf2p8affine_epi64_epi8(units, planes, 0);
  }
  // Adds the digits at these places to the sums of their rows.
  static inline I look_up(I sum, I places, const int8_t* digits) {
    return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_permutexvar_epi8(places, _mm512_load_si512(digits)));
  }
  static inline I shift_left(I a, int bits) { return _mm512_slli_epi32(a, bits); }
  template <int N>
  static inline I shift_right(I a) { return _mm512_srai_epi32(a, N); }
  static inline Codes load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static inline void store_codes(uint8_t* p, Codes codes) { _mm512_storeu_si512(p, codes); }

  // In assembly, because compilers load the four activations by an instruction of their own.
  template <int B>
  static inline I dot(I sum, Codes codes, const int8_t* x) {
    struct Four {
      int8_t x[4];
    };
    asm("vpdpbusd %1%{1to16%}, %2, %0" : "+v"(sum) : "m"(*reinterpret_cast<const Four*>(x)), "v"(codes));
    return sum;
  }
  template <int C>
  static inline F column(Codes codes) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(codes, 8 * C), _mm512_set1_epi32(255)));
  }
};

}  // namespace tailorbird
