// Sixteen columns of sixteen rows of a trellis with NEON: shifts put the bits of every column into its byte, and
// one instruction looks up 64 bytes.
#pragma once

#include "simd_neon.h"
#include "trellis.h"

namespace tailorbird {
namespace {  // compiled twice, as simd_neon.h is

struct LookedNeon {
  // Some bits of every word, from bit `From`, as byte C.
  template <int Bits, int From, int C>
  static inline uint32x4_t some(uint32x4_t words) {
    constexpr int right = From - 8 * C;
    if constexpr (right > 0) words = vshrq_n_u32(words, right);
    if constexpr (right < 0) words = vshlq_n_u32(words, -right);
    return vandq_u32(words, vdupq_n_u32(((1u << Bits) - 1) << (8 * C)));
  }
  template <int Bits, int H, int S, int More>
  static inline uint8x16_t indices(uint32x4_t words) {
    return vreinterpretq_u8_u32(vorrq_u32(vorrq_u32(some<Bits, first_bit(H, S, 0) + More, 0>(words),
                                                    some<Bits, first_bit(H, S, 1) + More, 1>(words)),
                                          vorrq_u32(some<Bits, first_bit(H, S, 2) + More, 2>(words),
                                                    some<Bits, first_bit(H, S, 3) + More, 3>(words))));
  }

  template <int H, int S>
  static inline uint8x16_t looked(uint32x4_t words, uint8x16x4_t older, uint8x16x4_t newer) {
    if constexpr (one_table(H)) {
      const uint8x16_t index = indices<window(H), H, S, 0>(words);
      return vqtbx4q_u8(vqtbl4q_u8(older, index), newer, vsubq_u8(index, vdupq_n_u8(64)));
    } else {
      constexpr int half = kTrellisState / 2;
      return vaddq_u8(vqtbl4q_u8(older, indices<half, H, S, 0>(words)),
                      vqtbl4q_u8(newer, indices<half, H, S, half>(words)));
    }
  }

  template <int H, int S>
  static inline Neon::Codes step(const uint8_t* p, uint8x16x4_t older, uint8x16x4_t newer) {
    p += static_cast<ptrdiff_t>(kRows) * first_byte(H, S);
    const uint8x16_t b0 = vld1q_u8(p), b1 = vld1q_u8(p + 16), b2 = vld1q_u8(p + 32), b3 = vld1q_u8(p + 48);
    const uint16x8x2_t low = vzipq_u16(vreinterpretq_u16_u8(vzip1q_u8(b0, b1)), vreinterpretq_u16_u8(vzip1q_u8(b2, b3)));
    const uint16x8x2_t high = vzipq_u16(vreinterpretq_u16_u8(vzip2q_u8(b0, b1)), vreinterpretq_u16_u8(vzip2q_u8(b2, b3)));
    return Neon::make<Neon::Codes>([&](int i) {
      return looked<H, S>(vreinterpretq_u32_u16((i < 2 ? low : high).val[i % 2]), older, newer);
    });
  }

  template <int H>
  static inline void unit(const uint8_t* p, const uint8_t* table, Neon::Codes* out) {
    const auto load = [](const uint8_t* t) {
      return uint8x16x4_t{{vld1q_u8(t), vld1q_u8(t + 16), vld1q_u8(t + 32), vld1q_u8(t + 48)}};
    };
    const uint8x16x4_t older = load(table), newer = load(table + 64);
    out[0] = step<H, 0>(p, older, newer);
    out[1] = step<H, 1>(p, older, newer);
    out[2] = step<H, 2>(p, older, newer);
    out[3] = step<H, 3>(p, older, newer);
  }
};

}  // namespace
}  // namespace tailorbird
