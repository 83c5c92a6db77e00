// Sixteen lanes of AVX-512 with VNNI, VBMI and GFNI.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace tailorbird {

struct Avx512 {
  static constexpr int kRegisters = 32;
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

  // Byte 7 - i of qword q is byte q * B + i: plane i of 8 codes, where the affine product wants row 7 - i.
  template <int B>
  struct Spread {
    alignas(64) uint8_t index[64];
    uint64_t mask;
    constexpr Spread() : index(), mask(0) {
      for (int q = 0; q < 8; ++q)
        for (int i = 0; i < B; ++i) {
          index[8 * q + 7 - i] = static_cast<uint8_t>(q * B + i);
          mask |= uint64_t{1} << (8 * q + 7 - i);
        }
    }
  };
  template <int B>
  static constexpr Spread<B> spread{};

  // One byte permutation puts the planes of 8 codes into a qword; the affine product of that 8 x 8 bit matrix with
  // the unit vectors is its transpose: 8 codes.
  template <int B>
  static inline Codes expand(const uint8_t* p) {
    __m512i data;
    if constexpr (B <= 2)
      data = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
    else if constexpr (B <= 4)
      data = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)p));
    else
      data = _mm512_loadu_si512(p);
    const __m512i planes = _mm512_maskz_permutexvar_epi8(spread<B>.mask, _mm512_load_si512(spread<B>.index), data);
    const __m512i units = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201ull));
    return _mm512_gf2p8affine_epi64_epi8(units, planes, 0);
  }
  static inline Codes load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static inline void store_codes(uint8_t* p, Codes codes) { _mm512_storeu_si512(p, codes); }

  template <int B>
  static inline I dot(I sum, Codes codes, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(four));
  }
  template <int C>
  static inline F column(Codes codes) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(codes, 8 * C), _mm512_set1_epi32(255)));
  }
};

}  // namespace tailorbird
