// Sixteen columns of sixteen rows of a trellis with AVX2: shifts put the bits of every column into its byte, and
// shuffles look up 16 bytes each, in those indices that belong to them.
#pragma once

#include <type_traits>

#include "simd_avx2.h"
#include "trellis.h"

namespace tailorbird {

struct LookedAvx2 {
  template <int Parts>
  struct Table {
    __m256i part[Parts];
    explicit Table(const uint8_t* p) {
      for (int k = 0; k < Parts; ++k) part[k] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(p + 16 * k)));
    }
    // A shuffle gives zero where an index has its top bit: adding 0x70 sets it from 16 on.
    inline __m256i operator()(__m256i index) const {
      __m256i found = _mm256_setzero_si256();
      for (int k = 0; k < Parts; ++k) {
        const __m256i own = _mm256_xor_si256(index, _mm256_set1_epi8(static_cast<char>(16 * k)));
        const __m256i at = _mm256_add_epi8(own, _mm256_set1_epi8(0x70));
        found = _mm256_or_si256(found, _mm256_shuffle_epi8(part[k], at));
      }
      return found;
    }
  };

  // Some bits of every word, from bit `From`, as byte C.
  template <int Bits, int From, int C>
  static inline __m256i some(__m256i words) {
    constexpr int right = From - 8 * C;
    if constexpr (right > 0) words = _mm256_srli_epi32(words, right);
    if constexpr (right < 0) words = _mm256_slli_epi32(words, -right);
    return _mm256_and_si256(words, _mm256_set1_epi32(((1 << Bits) - 1) << (8 * C)));
  }
  template <int Bits, int H, int S, int More>
  static inline __m256i indices(__m256i words) {
    return _mm256_or_si256(_mm256_or_si256(some<Bits, first_bit(H, S, 0) + More, 0>(words),
                                           some<Bits, first_bit(H, S, 1) + More, 1>(words)),
                           _mm256_or_si256(some<Bits, first_bit(H, S, 2) + More, 2>(words),
                                           some<Bits, first_bit(H, S, 3) + More, 3>(words)));
  }

  // The codes of words: one table, or the sum of two.
  struct One {
    Table<8> table;
    explicit One(const uint8_t* p) : table(p) {}
    template <int H, int S>
    inline __m256i looked(__m256i words) const { return table(indices<window(H), H, S, 0>(words)); }
  };
  struct Two {
    Table<4> older, newer;
    explicit Two(const uint8_t* p) : older(p), newer(p + 64) {}
    template <int H, int S>
    inline __m256i looked(__m256i words) const {
      constexpr int half = kTrellisState / 2;
      return _mm256_add_epi8(older(indices<half, H, S, 0>(words)), newer(indices<half, H, S, half>(words)));
    }
  };
  static inline __m256i both(__m128i low, __m128i high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }

  template <int H, int S, class Tables>
  static inline Avx2::Codes step(const uint8_t* p, const Tables& tables) {
    const __m128i* bytes = (const __m128i*)(p + static_cast<ptrdiff_t>(kRows) * first_byte(H, S));
    const __m128i b0 = _mm_loadu_si128(bytes), b1 = _mm_loadu_si128(bytes + 1), b2 = _mm_loadu_si128(bytes + 2),
                  b3 = _mm_loadu_si128(bytes + 3);
    const __m128i low01 = _mm_unpacklo_epi8(b0, b1), low23 = _mm_unpacklo_epi8(b2, b3);
    const __m128i high01 = _mm_unpackhi_epi8(b0, b1), high23 = _mm_unpackhi_epi8(b2, b3);
    const __m256i first = both(_mm_unpacklo_epi16(low01, low23), _mm_unpackhi_epi16(low01, low23));
    const __m256i second = both(_mm_unpacklo_epi16(high01, high23), _mm_unpackhi_epi16(high01, high23));
    return {tables.template looked<H, S>(first), tables.template looked<H, S>(second)};
  }

  template <int H>
  static inline void unit(const uint8_t* p, const uint8_t* table, Avx2::Codes* out) {
    const std::conditional_t<one_table(H), One, Two> tables(table);
    out[0] = step<H, 0>(p, tables);
    out[1] = step<H, 1>(p, tables);
    out[2] = step<H, 2>(p, tables);
    out[3] = step<H, 3>(p, tables);
  }
};

}  // namespace tailorbird
