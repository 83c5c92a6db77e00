// Sixteen lanes as two AVX2 registers.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace tailorbird {

struct Avx2 {
  static constexpr int kRegisters = 16;
  static constexpr bool kSignSums = false;
  template <int B>
  static constexpr int kTogether = 1;
  struct I { __m256i a, b; };
  struct F { __m256 a, b; };
  using Codes = I;

  static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static inline I izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static inline I iset(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static inline I iadd(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static inline I isub(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  static inline I imul(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
  static inline I load_u8(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
  }
  static inline I load_i8(const uint8_t* p) {
    return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
            _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
  }
  static inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static inline F fset(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static inline F load_f16(const uint8_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 16)))};
  }
  static inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static inline I load_int(const int32_t* p) {
    return {_mm256_load_si256((const __m256i*)p), _mm256_load_si256((const __m256i*)(p + 8))};
  }
  static inline void store_int(int32_t* p, I x) {
    _mm256_store_si256((__m256i*)p, x.a);
    _mm256_store_si256((__m256i*)(p + 8), x.b);
  }
  static inline void store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }

  // Byte i of qword q (of the two in a 128-bit lane) is byte q * B + i, for i < B.
  template <int B>
  struct Spread {
    alignas(32) uint8_t index[32];
    constexpr Spread() : index() {
      for (int k = 0; k < 32; ++k) index[k] = static_cast<uint8_t>(k % 8 < B ? k / 8 % 2 * B + k % 8 : 0x80);
    }
  };
  template <int B>
  static constexpr Spread<B> spread{};

  // 32 codes from 4 * B bytes: planes into qwords, then the 8 x 8 bit transpose of bits.h in four of them at once.
  template <int B>
  static inline __m256i expand_half(const uint8_t* p) {
    const __m128i low = _mm_loadu_si128((const __m128i*)p), high = _mm_loadu_si128((const __m128i*)(p + 2 * B));
    __m256i x = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    x = _mm256_shuffle_epi8(x, _mm256_load_si256((const __m256i*)spread<B>.index));
    x = swap<7>(x, 0x00AA00AA00AA00AAll);
    x = swap<14>(x, 0x0000CCCC0000CCCCll);
    return swap<28>(x, 0x00000000F0F0F0F0ll);
  }
  template <int N>
  static inline __m256i swap(__m256i x, long long mask) {
    const __m256i t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, N)), _mm256_set1_epi64x(mask));
    return _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64(t, N)));
  }
  template <int B>
  static inline Codes expand(const uint8_t* p) {
    return {expand_half<B>(p), expand_half<B>(p + 4 * B)};
  }
  static inline Codes load_codes(const uint8_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
  }
  static inline void store_codes(uint8_t* p, Codes codes) {
    _mm256_storeu_si256((__m256i*)p, codes.a);
    _mm256_storeu_si256((__m256i*)(p + 32), codes.b);
  }

  // Pairs of products saturate at 16 bits. Up to 7 bits they can't: 2 * 127 * 127 = 32258. The top bit of 8 is
  // multiplied on its own, as 64, and counted twice.
  template <int B>
  static inline __m256i dot_half(__m256i sum, __m256i codes, __m256i x) {
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (B == 8) {
      const __m256i top = _mm256_and_si256(_mm256_srli_epi16(codes, 1), _mm256_set1_epi8(0x40));
      const __m256i high = _mm256_madd_epi16(_mm256_maddubs_epi16(top, x), ones);
      sum = _mm256_add_epi32(sum, _mm256_add_epi32(high, high));
      codes = _mm256_and_si256(codes, _mm256_set1_epi8(0x7F));
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), ones));
  }
  template <int B>
  static inline I dot(I sum, Codes codes, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    const __m256i columns = _mm256_set1_epi32(four);
    return {dot_half<B>(sum.a, codes.a, columns), dot_half<B>(sum.b, codes.b, columns)};
  }
  template <int C>
  static inline F column(Codes codes) {
    const __m256i low = _mm256_set1_epi32(255);
    return to_float({_mm256_and_si256(_mm256_srli_epi32(codes.a, 8 * C), low),
                     _mm256_and_si256(_mm256_srli_epi32(codes.b, 8 * C), low)});
  }
};

}  // namespace tailorbird
