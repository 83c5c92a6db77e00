// Sixteen columns of sixteen rows of a trellis with AVX-512: a byte permutation (VBMI) puts four bytes of every row
// into its lane, `vpmultishiftqb` picks the bits of each column out of these, and a permutation of two registers looks
// 128 bytes up; of two tables one permutation each looks up 64.
#pragma once

#include "simd_avx512.h"
#include "trellis.h"

namespace tailorbird {

// Byte 4 r + b is byte 16 b + r.
struct Transposed {
  alignas(64) uint8_t index[64];
  constexpr Transposed() : index() {
    for (int k = 0; k < 64; ++k) index[k] = static_cast<uint8_t>(16 * (k % 4) + k / 4);
  }
};

struct LookedAvx512 {
  static constexpr Transposed transposed{};

  // For each byte of two rows where its bits begin.
  static constexpr int64_t shifts(int halves, int step, int more) {
    uint64_t found = 0;
    for (int k = 0; k < 8; ++k)
      found |= static_cast<uint64_t>(32 * (k / 4) + first_bit(halves, step, k % 4) + more) << (8 * k);
    return static_cast<int64_t>(found);
  }

  template <int H, int S>
  static inline __m512i step(const uint8_t* p, __m512i older, __m512i newer) {
    constexpr ptrdiff_t first = static_cast<ptrdiff_t>(kRows) * first_byte(H, S);
    constexpr int64_t low = shifts(H, S, 0), high = shifts(H, S, kTrellisState / 2);
    const __m512i words = _mm512_permutexvar_epi8(_mm512_load_si512(transposed.index), _mm512_loadu_si512(p + first));
    const __m512i old_bits = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(low), words);
    // Of an index that looks 64 or 128 bytes up, the low six or seven bits count.
    if constexpr (one_table(H)) return _mm512_permutex2var_epi8(older, old_bits, newer);
    const __m512i new_bits = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(high), words);
    return _mm512_add_epi8(_mm512_permutexvar_epi8(old_bits, older), _mm512_permutexvar_epi8(new_bits, newer));
  }

  template <int H>
  static inline void unit(const uint8_t* p, const uint8_t* table, __m512i* out) {
    const __m512i older = _mm512_loadu_si512(table), newer = _mm512_loadu_si512(table + 64);
    out[0] = step<H, 0>(p, older, newer);
    out[1] = step<H, 1>(p, older, newer);
    out[2] = step<H, 2>(p, older, newer);
    out[3] = step<H, 3>(p, older, newer);
  }
};

}  // namespace tailorbird
