// The kernels of trellis.h, written once over a set of lanes `V` and a `Look` that finds the codes of a unit: as
// loops.h, which says how numbers are added up.
#pragma once

#include "many.h"
#include "trellis.h"

namespace tailorbird {

// Codes one by one: not worth being compiled into every loop.
template <class V>
struct Looked {
  template <int H>
  __attribute__((noinline)) static void unit(const uint8_t* p, const uint8_t* table, typename V::Codes* out) {
    for (int step = 0; step < 4; ++step) {
      alignas(64) uint8_t codes[64];
      const uint8_t* bytes = p + static_cast<ptrdiff_t>(kRows) * first_byte(H, step);
      for (size_t r = 0; r < kRows; ++r) {
        const uint32_t word = bytes[r] | bytes[kRows + r] << 8 | bytes[2 * kRows + r] << 16 |
                              static_cast<uint32_t>(bytes[3 * kRows + r]) << 24;
        for (size_t c = 0; c < kColumns; ++c) {
          const uint32_t state = word >> first_bit(H, step, static_cast<int>(c));
          codes[kColumns * r + c] = looked_up(H, table, state);
        }
      }
      out[step] = V::load_codes(codes);
    }
  }
};

template <class V, class Look = Looked<V>>
struct TrellisLoops {
  using L = Many<V>;
  using I = typename V::I;
  using F = typename V::F;
  using Codes = typename V::Codes;
  using Header = typename L::Header;

  static constexpr size_t kLane = kRows;
  static constexpr int kSteps = kUnit / kColumns;

  // What all of a tile's groups are read from.
  struct Tile {
    const uint8_t *units, *heads, *strings;
    Tile(const Layout& m, size_t tile) {
      units = m.data + tile * m.tile_bytes;
      heads = units + m.trellis->scales;
      strings = units + m.trellis->strings;
    }
    void next(const Layout& m, size_t g) {
      heads += scale_bytes(m.trellis->run);
      strings += m.steps / kSteps * kRows * m.trellis->halves[g];
    }
  };

  static const uint8_t* table(const Layout& m, size_t g) { return m.trellis->tables + kTable * m.trellis->halves[g]; }

  // function<H>(arguments) for the number of halves.
  template <class Function>
  static inline void choose(int halves, Function&& function) {
    switch (halves) {
      case 2: return function.template operator()<2>();
      case 3: return function.template operator()<3>();
      case 4: return function.template operator()<4>();
      case 5: return function.template operator()<5>();
      case 6: return function.template operator()<6>();
      case 7: return function.template operator()<7>();
      default: return function.template operator()<8>();
    }
  }

  // --- few rows ---

  template <int H, int M>
  static inline void dots(const uint8_t* p, size_t steps, const uint8_t* table, const int8_t* const* x, I* out) {
    constexpr int kChains = M == 1 ? 4 : M <= 3 ? 2 : 1;
    I sum[M][kChains];
    for (int i = 0; i < M; ++i)
      for (int c = 0; c < kChains; ++c) sum[i][c] = V::izero();
    for (size_t s = 0; s < steps; s += kSteps, p += kRows * H) {
      for (int line = 0; line < (static_cast<int>(kRows) * H + 63) / 64; ++line) V::prefetch(p + L::kAhead + 64 * line);
      Codes codes[kSteps];
      Look::template unit<H>(p, table, codes);
#pragma GCC unroll 4
      for (int u = 0; u < kSteps; ++u)
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i)
          sum[i][u % kChains] = V::template dot<8>(sum[i][u % kChains], codes[u], x[i] + kColumns * (s + u));
    }
    for (int i = 0; i < M; ++i) {
      out[i] = sum[i][0];
      for (int c = 1; c < kChains; ++c) out[i] = V::iadd(out[i], sum[i][c]);
    }
  }

  // The second digits of a wide group, which stand in a few of its units.
  __attribute__((noinline)) static I second(const Layout& m, size_t g, const uint8_t* p, Stretch s, const int8_t* x) {
    const size_t first = s.begin / kSteps, units = (s.end + kSteps - 1) / kSteps - first;
    const int8_t* row = x + first * kUnit;
    I sum;
    choose(m.trellis->halves[g], [&]<int H>() {
      dots<H, 1>(p + first * kRows * H, units * kSteps, table(m, g), &row, &sum);
    });
    return sum;
  }

  // Mostly scales are bytes. Where the compiler knows it, nothing is asked at every group.
  template <int M, bool Usual>
  static void few_tiles_of(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride) {
    Run run = m.trellis->run;
    run.bits = 8;
    run.offset = Offset::none;
    if constexpr (Usual) run.scale = Scale::byte;
    const size_t width = m.steps * kColumns;
    for (size_t tile = begin; tile < end; ++tile) {
      Tile at(m, tile);
      F sum[M], low = V::fset(0);
      for (int i = 0; i < M; ++i) sum[i] = V::fset(0);
      for (size_t g = 0; g < m.groups; at.next(m, g), ++g) {
        const int8_t* rows[M];
        for (int i = 0; i < M; ++i) rows[i] = x.int8.codes + i * x.stride + g * width;
        const Header h = L::header(run, at.heads);
        I t[M];
        choose(m.trellis->halves[g], [&]<int H>() { dots<H, M>(at.strings, m.steps, table(m, g), rows, t); });
        for (int i = 0; i < M; ++i) {
          const size_t place = i * x.groups + g;
          L::add(run, h, t[i], x.int8, place, sum[i], low);
          if (x.rest.scales[place] == 0) continue;
          const int8_t* codes = x.rest.codes + i * x.stride + g * width;
          L::add(run, h, second(m, g, at.strings, x.stretches[place], codes), x.rest, place, sum[i], low);
        }
      }
      for (int i = 0; i < M; ++i)
        L::write(m, tile, L::fold(run, at.units, V::fset(0), sum[i], low), out + i * stride);
    }
  }

  template <int M>
  static void few_tiles(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride) {
    if constexpr (M == 1)
      if (m.trellis->run.scale == Scale::byte) return few_tiles_of<M, true>(m, x, begin, end, out, stride);
    few_tiles_of<M, false>(m, x, begin, end, out, stride);
  }

  static void few(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride) {
    static constexpr decltype(&few_tiles<1>) table[] = {few_tiles<1>, few_tiles<2>, few_tiles<3>, few_tiles<4>,
                                                        few_tiles<5>, few_tiles<6>, few_tiles<7>, few_tiles<8>};
    if (x.rows) table[x.rows - 1](m, x, begin, end, out, stride);
  }

  // --- a group's codes unpacked, for all that is not few rows ---

  static void unpack(const Layout& m, size_t g, const uint8_t* p, uint8_t* codes) {
    choose(m.trellis->halves[g], [&]<int H>() {
      for (size_t s = 0; s < m.steps; s += kSteps, p += kRows * H) {
        Codes found[kSteps];
        Look::template unit<H>(p, table(m, g), found);
        for (int u = 0; u < kSteps; ++u, codes += 64) V::store_codes(codes, found[u]);
      }
    });
  }

  static void exact(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride,
                    void* scratch) {
    const Run& run = m.trellis->run;
    const size_t width = m.steps * kColumns;
    uint8_t* codes = static_cast<uint8_t*>(scratch);
    float* sums = reinterpret_cast<float*>(codes + m.steps * 64);
    for (size_t tile = begin; tile < end; ++tile) {
      Tile at(m, tile);
      std::memset(sums, 0, x.rows * kLane * sizeof(float));
      for (size_t g = 0; g < m.groups; at.next(m, g), ++g) {
        unpack(m, g, at.strings, codes);
        const Header h = L::header(run, at.heads);
        for (size_t i = 0; i < x.rows; ++i) {
          const F t = exact_group(m, codes, x.fp32.values + i * x.stride + g * width);
          V::store(sums + i * kLane, V::add(V::load(sums + i * kLane), V::mul(t, h.scale)));
        }
      }
      for (size_t i = 0; i < x.rows; ++i)
        L::write(m, tile, L::fold(run, at.units, V::fset(0), V::load(sums + i * kLane), V::fset(0)), out + i * stride);
    }
  }

  static inline F exact_group(const Layout& m, const uint8_t* codes, const float* x) {
    const F zero = V::fset(128);
    F part[kColumns];
    for (size_t c = 0; c < kColumns; ++c) part[c] = V::fset(0);
    for (size_t s = 0; s < m.steps; ++s, codes += 64, x += kColumns) {
      const Codes four = V::load_codes(codes);
      const F w[kColumns] = {V::sub(V::template column<0>(four), zero), V::sub(V::template column<1>(four), zero),
                             V::sub(V::template column<2>(four), zero), V::sub(V::template column<3>(four), zero)};
      for (size_t c = 0; c < kColumns; ++c) part[c] = V::add(part[c], V::mul(w[c], V::fset(x[c])));
    }
    return V::add(V::add(part[0], part[1]), V::add(part[2], part[3]));
  }

  static size_t scratch(const Layout& m, size_t rows) { return m.steps * 64 + rows * 2 * kLane * sizeof(float); }

  // M rows times the unpacked codes of a group; sums of row i are at sums[i * 2 * kLane].
  template <int M>
  static void block(const Layout& m, size_t g, const Header& h, const uint8_t* codes, const View& x, float* sums) {
    alignas(64) int32_t found[M][1][kLane];
    L::template sums_of<1, M, 8>(m.steps, codes, 0, x.int8.codes + g * m.steps * kColumns,
                                 [&](int i) { return i * x.stride; }, found);
    for (int i = 0; i < M; ++i)
      L::template keep<1>(m.trellis->run, &h, found[i], x.int8, i * x.groups + g, sums + i * 2 * kLane);
    L::template rests<1, M, 8>(m, m.trellis->run, g, &h, codes, 0, x, sums);
  }

  static void many(const Layout& m, const View& all, size_t begin, size_t end, float* out, size_t stride,
                   void* scratch) {
    const Run& run = m.trellis->run;
    uint8_t* codes = static_cast<uint8_t*>(scratch);
    float* sums = reinterpret_cast<float*>(codes + m.steps * 64);
    for (size_t tile = begin; tile < end; ++tile) {
      Tile at(m, tile);
      std::memset(sums, 0, all.rows * 2 * kLane * sizeof(float));
      for (size_t g = 0; g < m.groups; at.next(m, g), ++g) {
        unpack(m, g, at.strings, codes);
        const Header h = L::header(run, at.heads);
        View x = all;
        float* to = sums;
        const auto take = [&](int rows, auto function) {
          for (; x.rows >= static_cast<size_t>(rows); x = L::from_row(x, rows), to += rows * 2 * kLane)
            function(m, g, h, codes, x, to);
        };
        take(L::kBlock, block<L::kBlock>);
        if constexpr (L::kBlock > 4) take(4, block<4>);
        take(1, block<1>);
      }
      for (size_t i = 0; i < all.rows; ++i)
        L::write(m, tile, L::fold(run, at.units, V::fset(0), V::load(sums + i * 2 * kLane), V::fset(0)),
                 out + i * stride);
    }
  }

  static constexpr TrellisVariant variant() { return {few, many, exact, scratch}; }
};

}  // namespace tailorbird
