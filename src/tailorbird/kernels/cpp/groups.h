// What all loops over weights share: the way through tiles and runs, what stands in front of the codes of a group of
// columns, and how its integer sums become float sums.
#pragma once

#include <cstring>

#include "layout.h"

namespace tailorbird {

template <class V>
struct Groups {
  using I = typename V::I;
  using F = typename V::F;

  static constexpr size_t kLane = kRows;  // floats of one F
  static constexpr size_t kAhead = 4096;  // bytes from the weight in use to the one fetched

  // What stands in front of the codes of a group.
  struct Header {
    I zero;
    F scale, offset;
  };

  static inline Header header(const Run& run, const uint8_t* p) {
    Header h{V::izero(), V::fset(0), V::fset(0)};
    const bool byte = run.scale == Scale::byte;
    h.scale = byte ? V::to_float(V::load_u8(p)) : V::load_f16(p);
    p += scale_bytes(run);
    if (run.offset == Offset::integer) h.zero = V::load_u8(p);
    if (run.offset == Offset::real) h.offset = byte ? V::to_float(V::load_i8(p)) : V::load_f16(p);
    // The middle of one-bit codes is 1/2: twice the codes, half the scale.
    if (run.offset == Offset::none && run.bits == 1) h.scale = V::mul(h.scale, V::fset(0.5f));
    return h;
  }

  static inline void take(const Header& h, I t, float unit, F& sum) {
    sum = V::add(sum, V::mul(V::to_float(t), V::mul(h.scale, V::fset(unit))));
  }

  // Adds one group's integer sums to a row's float sums.
  static inline void finish(const Run& run, const Header& h, I t, float unit, int32_t total, F& sum, F& low) {
    if (run.offset == Offset::none) {
      if (run.bits == 1)
        t = V::isub(V::iadd(t, t), V::iset(total));
      else
        t = V::isub(t, V::iset(total * (1 << (run.bits - 1))));
    } else if (run.offset == Offset::integer) {
      t = V::isub(t, V::imul(h.zero, V::iset(total)));
    } else {
      low = V::add(low, V::mul(h.offset, V::fset(static_cast<float>(total) * unit)));
    }
    take(h, t, unit, sum);
  }

  static inline void add(const Run& run, const Header& h, I t, const Activations8& x, size_t at, F& sum, F& low) {
    finish(run, h, t, x.scales[at], x.sums[at], sum, low);
  }

  // A run's sums, in units of its rows, into the result.
  static inline F fold(const Run& run, const uint8_t* units, F total, F sum, F low) {
    if (run.scale == Scale::byte) {
      sum = V::mul(sum, V::load_f16(units));
      if (run.offset == Offset::real) low = V::mul(low, V::load_f16(units + 2 * kRows));
    }
    if (run.offset == Offset::real) sum = V::add(sum, low);
    return V::add(total, sum);
  }

  static inline void write(const Layout& m, size_t tile, F total, float* out) {
    const size_t left = m.rows - tile * kRows;
    if (left >= kRows) return V::store(out + tile * kRows, total);
    alignas(64) float lanes[kLane];
    V::store(lanes, total);
    std::memcpy(out + tile * kRows, lanes, left * sizeof(float));
  }

  using RunFunction = void (*)(const Layout&, const Run&, const uint8_t*, const View&, F*);

  template <int M>
  static void tiles(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride,
                    RunFunction (*function)(int)) {
    for (size_t tile = begin; tile < end; ++tile) {
      F total[M];
      for (int i = 0; i < M; ++i) total[i] = V::fset(0);
      for (size_t r = 0; r < m.run_count; ++r) {
        const Run& run = m.runs[r];
        function(run.bits)(m, run, m.data + tile * m.tile_bytes + run.begin, x, total);
      }
      for (int i = 0; i < M; ++i) write(m, tile, total[i], out + i * stride);
    }
  }

  static Activations8 terms_from(const Activations8& x, size_t column, size_t group) {
    return {x.codes + column, x.scales + group, x.sums + group};
  }
  static View from_row(View x, size_t row) {
    x.rows -= row;
    x.int8 = terms_from(x.int8, row * x.stride, row * x.groups);
    x.rest = terms_from(x.rest, row * x.stride, row * x.groups);
    x.stretches += row * x.groups;
    x.fp32.values += row * x.stride;
    x.fp32.sums += row * x.groups;
    return x;
  }
};

}  // namespace tailorbird
