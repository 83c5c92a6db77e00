// Sixteen lanes as four NEON registers, for AArch64.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace tailorbird {
namespace {  // compiled twice, with and without products of four bytes: the two must not share code

struct Neon {
  static constexpr int kRegisters = 16;  // of 256 bits: 32 of 128
  static constexpr bool kSignSums = false;
  template <int B>
  static constexpr int kTogether = 1;
  struct I { int32x4_t v[4]; };
  struct F { float32x4_t v[4]; };
  struct Codes { uint8x16_t v[4]; };  // row r, column c at byte 4 r + c

  template <class T, class G>
  static inline T make(G g) {
    return {g(0), g(1), g(2), g(3)};
  }
  static inline void prefetch(const void* p) { __builtin_prefetch(p); }
  static inline I izero() { return iset(0); }
  static inline I iset(int32_t x) { return make<I>([=](int) { return vdupq_n_s32(x); }); }
  static inline I iadd(I a, I b) { return make<I>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); }); }
  static inline I isub(I a, I b) { return make<I>([&](int i) { return vsubq_s32(a.v[i], b.v[i]); }); }
  static inline I imul(I a, I b) { return make<I>([&](int i) { return vmulq_s32(a.v[i], b.v[i]); }); }
  static inline I load_u8(const uint8_t* p) {
    const uint8x16_t x = vld1q_u8(p);
    const uint16x8_t low = vmovl_u8(vget_low_u8(x)), high = vmovl_high_u8(x);
    return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_high_u16(low)),
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), vreinterpretq_s32_u32(vmovl_high_u16(high))};
  }
  static inline I load_i8(const uint8_t* p) {
    const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(p));
    const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_high_s8(x);
    return {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)};
  }
  static inline F to_float(I a) { return make<F>([&](int i) { return vcvtq_f32_s32(a.v[i]); }); }
  static inline F fset(float x) { return make<F>([=](int) { return vdupq_n_f32(x); }); }
  static inline F add(F a, F b) { return make<F>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); }); }
  static inline F sub(F a, F b) { return make<F>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); }); }
  static inline F mul(F a, F b) { return make<F>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); }); }
  static inline F load_f16(const uint8_t* p) {
    return make<F>([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * i))); });
  }
  static inline F load(const float* p) { return make<F>([=](int i) { return vld1q_f32(p + 4 * i); }); }
  static inline I load_int(const int32_t* p) { return make<I>([=](int i) { return vld1q_s32(p + 4 * i); }); }
  static inline void store_int(int32_t* p, I a) {
    for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, a.v[i]);
  }
  static inline void store(float* p, F a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
  }

  // Planes a code is given room for. Below 8 a qword holds the planes of several pairs of rows, which the transpose
  // turns into fields of its bytes: field f of register r are codes r * 8 / room + f.
  static constexpr int room(int bits) { return bits <= 2 ? 2 : bits <= 4 ? 4 : 8; }

  // Which byte goes where; a number that is no byte's looks up zero.
  template <int B>
  struct Spread {
    alignas(16) uint8_t index[16];
    constexpr Spread() : index() {
      for (int k = 0; k < 16; ++k) {
        const int field = k % 8 / room(B), plane = k % room(B), pair = 2 * field + k / 8;
        index[k] = static_cast<uint8_t>(plane < B ? pair * B + plane : 0xFF);
      }
    }
  };
  template <int B>
  static constexpr Spread<B> spread{};

  // Exchanges the bits of `mask` with those N above them.
  template <int N>
  static inline uint8x16_t swap(uint8x16_t bytes, uint64_t mask) {
    const uint64x2_t x = vreinterpretq_u64_u8(bytes);
    const uint64x2_t low = vbslq_u64(vdupq_n_u64(mask), vshrq_n_u64(x, N), x);
    return vreinterpretq_u8_u64(vbslq_u64(vdupq_n_u64(mask << N), vshlq_n_u64(x, N), low));
  }

  // Codes of a step from its 8 * B bytes: planes into qwords, then the 8 x 8 bit transpose of bits.h in two at once.
  template <int B>
  static inline Codes expand(const uint8_t* p) {
    if constexpr (B == 1) return expand_bits(p);
    constexpr int kRoom = room(B), kFields = 8 / kRoom;
    Codes out;
    for (int r = 0; r < kRoom / 2; ++r) {
      uint8x16_t x = vqtbl1q_u8(vld1q_u8(p + r * 2 * kFields * B), vld1q_u8(spread<B>.index));
      x = swap<7>(x, 0x00AA00AA00AA00AAull);
      x = swap<14>(x, 0x0000CCCC0000CCCCull);
      x = swap<28>(x, 0x00000000F0F0F0F0ull);
      for (int f = 0; f < kFields; ++f)
        out.v[r * kFields + f] = vandq_u8(x >> (f * kRoom), vdupq_n_u8((1 << kRoom) - 1));
    }
    return out;
  }
  static inline Codes expand_bits(const uint8_t* p) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
    const uint8x16_t pairs = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1)), data = vcombine_u8(vld1_u8(p), vdup_n_u8(0));
    return make<Codes>([&](int i) {
      return vandq_u8(vtstq_u8(vqtbl1q_u8(data, vaddq_u8(pairs, vdupq_n_u8(2 * i))), bit), vdupq_n_u8(1));
    });
  }
  static inline Codes load_codes(const uint8_t* p) { return make<Codes>([=](int i) { return vld1q_u8(p + 16 * i); }); }
  static inline void store_codes(uint8_t* p, Codes codes) {
    for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, codes.v[i]);
  }

  // sum + a * x, four columns of four rows. Pairs of products fit 16 bits: 2 * 128 * 127 = 32512.
  static inline int32x4_t dot_quarter(int32x4_t sum, int8x16_t a, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, a, x);
#else
    return vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(x)), vmull_high_s8(a, x)));
#endif
  }
  // Both factors are signed. Codes of 8 bits are multiplied as code - 128; minus 128 * x is taken off again.
  template <int B>
  static inline I dot(I sum, Codes codes, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    const int8x16_t columns = vreinterpretq_s8_s32(vdupq_n_s32(four));
    if constexpr (B < 8)
      return make<I>([&](int i) { return dot_quarter(sum.v[i], vreinterpretq_s8_u8(codes.v[i]), columns); });
    const int32x4_t middle = dot_quarter(vdupq_n_s32(0), vdupq_n_s8(-128), columns);
    return make<I>([&](int i) {
      const int8x16_t centred = vreinterpretq_s8_u8(veorq_u8(codes.v[i], vdupq_n_u8(0x80)));
      return vsubq_s32(dot_quarter(sum.v[i], centred, columns), middle);
    });
  }
  template <int C>
  static inline F column(Codes codes) {
    return make<F>([&](int i) {
      const uint32x4_t words = vreinterpretq_u32_u8(codes.v[i]);
      return vcvtq_f32_u32(vandq_u32(words >> (8 * C), vdupq_n_u32(255)));
    });
  }
};

}  // namespace
}  // namespace tailorbird
