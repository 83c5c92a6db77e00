// The kernels, written once over a set of lanes `V` (simd_*.h) and compiled once a variant.
//
// Within a group all is integer: t = sum of codes * activations - zero * sum of activations. Beyond it every lane
// adds float(t) * (scale * activation scale), a multiplication and an addition rounded each, groups in stored order.
// The rest of a wide group follows its group, as if it were one more.
// So all variants give the same bits, and a row of activations gives the same whatever rows it is multiplied with.
#pragma once

#include <cstring>

#include "bits.h"
#include "groups.h"
#include "layout.h"
#include "quantize.h"

namespace tailorbird {

template <class V>
struct Loops : Groups<V> {
  using I = typename V::I;
  using F = typename V::F;
  using Codes = typename V::Codes;

  using Groups<V>::kLane;
  using typename Groups<V>::Header;
  using Groups<V>::header, Groups<V>::finish, Groups<V>::add, Groups<V>::fold, Groups<V>::write;

  static constexpr size_t kAhead = 4096;       // bytes from the weight in use to the one fetched
  static constexpr size_t kChunk = 4096;       // columns unpacked at a time
  static constexpr size_t kKept = 384 * 1024;  // bytes of activations kept near while tiles pass by

  // --- few rows: weights straight from memory into the multiplication ---

  // Where `V` expands T steps at once, a byte holds a code of each: sums of step t are 2**(B * t) times as large.
  // Several rows leave no registers for sums of four.
  template <int B, int M>
  static inline void dots(const uint8_t* p, size_t steps, const int8_t* const* x, I* out) {
    constexpr int T = M == 1 || V::template kTogether<B> < 2 ? V::template kTogether<B> : 2;
    constexpr int kChains = M == 1 ? 4 : M <= 3 ? 2 : T;  // additions that do not wait for each other
    constexpr int kUnroll = 4;
    I sum[M][kChains];
    for (int m = 0; m < M; ++m)
      for (int c = 0; c < kChains; ++c) sum[m][c] = V::izero();
    size_t s = 0;
    for (; s + kUnroll <= steps; s += kUnroll, p += kUnroll * 8 * B) {
      for (int line = 0; line < (kUnroll * 8 * B + 63) / 64; ++line) V::prefetch(p + kAhead + 64 * line);
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; u += T) {
        Codes codes[T];
        if constexpr (T > 1)
          V::template expand_many<B, T>(p + u * 8 * B, codes);
        else
          codes[0] = V::template expand<B>(p + u * 8 * B);
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
          for (int m = 0; m < M; ++m)
            sum[m][(u + t) % kChains] =
                V::template dot<B>(sum[m][(u + t) % kChains], codes[t], x[m] + kColumns * (s + u + t));
      }
    }
    for (; s < steps; ++s, p += 8 * B) {
      const Codes codes = V::template expand<B>(p);
      for (int m = 0; m < M; ++m) sum[m][0] = V::template dot<B>(sum[m][0], codes, x[m] + kColumns * s);
    }
    for (int m = 0; m < M; ++m) {
      for (int c = T; c < kChains; ++c) sum[m][c % T] = V::iadd(sum[m][c % T], sum[m][c]);
      out[m] = sum[m][T - 1];
      if constexpr (T > 1)
        for (int t = T - 2; t >= 0; --t) out[m] = V::iadd(V::template shift_right<B>(out[m]), sum[m][t]);
    }
  }

  // The second digits of a wide group, which stand in a few of its steps.
  template <int B>
  __attribute__((noinline)) static I second(const uint8_t* p, Stretch s, const int8_t* x) {
    I sum = V::izero();
    p += static_cast<size_t>(s.begin) * 8 * B;
    for (int32_t at = s.begin; at < s.end; ++at, p += 8 * B)
      sum = V::template dot<B>(sum, V::template expand<B>(p), x + kColumns * at);
    return sum;
  }

  // Offsets of runs as compressed weights mostly have them, with scales of a byte. Where the compiler knows them,
  // nothing is asked at every group.
  enum class Known { nothing, none, integer };

  template <int B, int M, Known K>
  static void few_run(const Layout& m, const Run& stored, const uint8_t* p, const View& x, F* total) {
    Run run = stored;
    run.bits = B;
    if constexpr (K != Known::nothing) {
      run.scale = Scale::byte;
      run.offset = K == Known::none ? Offset::none : Offset::integer;
    }
    const uint8_t* units = p;
    p += unit_bytes(run);
    const size_t head = scale_bytes(run) + offset_bytes(run), body = m.steps * 8 * B, width = m.steps * kColumns;
    F sum[M], low[M];
    for (int i = 0; i < M; ++i) sum[i] = low[i] = V::fset(0);
    for (size_t k = 0; k < run.count; ++k, p += head + body) {
      const size_t g = run.groups[k];
      const int8_t* rows[M];
      for (int i = 0; i < M; ++i) rows[i] = x.int8.codes + i * x.stride + g * width;
      const Header h = header(run, p);
      I t[M];
      dots<B, M>(p + head, m.steps, rows, t);
      for (int i = 0; i < M; ++i) {
        const size_t at = i * x.groups + g;
        add(run, h, t[i], x.int8, at, sum[i], low[i]);
        if (x.rest.scales[at] == 0) continue;
        const Stretch s = x.stretches[at];
        add(run, h, second<B>(p + head, s, x.rest.codes + i * x.stride + g * width), x.rest, at, sum[i], low[i]);
      }
    }
    for (int i = 0; i < M; ++i) total[i] = fold(run, units, total[i], sum[i], low[i]);
  }

  using RunFunction = void (*)(const Layout&, const Run&, const uint8_t*, const View&, F*);

  template <int B, int M>
  static void few_run_of(const Layout& m, const Run& run, const uint8_t* p, const View& x, F* total) {
    if constexpr (M == 1) {
      if (run.scale == Scale::byte && run.offset == Offset::none)
        return few_run<B, M, Known::none>(m, run, p, x, total);
      if (run.scale == Scale::byte && run.offset == Offset::integer)
        return few_run<B, M, Known::integer>(m, run, p, x, total);
    }
    few_run<B, M, Known::nothing>(m, run, p, x, total);
  }

  template <int M>
  static RunFunction few_function(int bits) {
    static constexpr RunFunction table[] = {few_run_of<1, M>, few_run_of<2, M>, few_run_of<3, M>, few_run_of<4, M>,
                                            few_run_of<5, M>, few_run_of<6, M>, few_run_of<7, M>, few_run_of<8, M>};
    return table[bits - 1];
  }

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

  template <int M>
  static void few_tiles(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride) {
    tiles<M>(m, x, begin, end, out, stride, few_function<M>);
  }

  static void few(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride) {
    static constexpr decltype(&few_tiles<1>) table[] = {few_tiles<1>, few_tiles<2>, few_tiles<3>, few_tiles<4>,
                                                        few_tiles<5>, few_tiles<6>, few_tiles<7>, few_tiles<8>};
    if (x.rows) table[x.rows - 1](m, x, begin, end, out, stride);
  }

  // --- exact: float activations, codes made floats ---

  template <int B, int M>
  static void exact_run(const Layout& m, const Run& run, const uint8_t* p, const View& x, F* total) {
    const uint8_t* units = p;
    p += unit_bytes(run);
    const size_t head = scale_bytes(run) + offset_bytes(run), body = m.steps * 8 * B, width = m.steps * kColumns;
    F sum[M], low[M];
    for (int i = 0; i < M; ++i) sum[i] = low[i] = V::fset(0);
    for (size_t k = 0; k < run.count; ++k, p += head + body) {
      const size_t g = run.groups[k];
      Header h = header(run, p);
      F zero = V::to_float(h.zero);
      if (run.offset == Offset::none) {
        zero = V::fset(B == 1 ? 0.5f : static_cast<float>(1 << (B - 1)));
        if (B == 1) h.scale = V::add(h.scale, h.scale);
      }
      F part[M][kColumns];
      for (int i = 0; i < M; ++i)
        for (size_t c = 0; c < kColumns; ++c) part[i][c] = V::fset(0);
      const float* row = x.fp32.values + g * width;
      for (size_t s = 0; s < m.steps; ++s) {
        V::prefetch(p + kAhead + s * 8 * B);
        const Codes codes = V::template expand<B>(p + head + s * 8 * B);
        const F w[kColumns] = {V::sub(V::template column<0>(codes), zero), V::sub(V::template column<1>(codes), zero),
                               V::sub(V::template column<2>(codes), zero), V::sub(V::template column<3>(codes), zero)};
        for (int i = 0; i < M; ++i)
          for (size_t c = 0; c < kColumns; ++c)
            part[i][c] = V::add(part[i][c], V::mul(w[c], V::fset(row[i * x.stride + kColumns * s + c])));
      }
      for (int i = 0; i < M; ++i) {
        const F t = V::add(V::add(part[i][0], part[i][1]), V::add(part[i][2], part[i][3]));
        sum[i] = V::add(sum[i], V::mul(t, h.scale));
        if (run.offset == Offset::real)
          low[i] = V::add(low[i], V::mul(h.offset, V::fset(x.fp32.sums[i * x.groups + g])));
      }
    }
    for (int i = 0; i < M; ++i) total[i] = fold(run, units, total[i], sum[i], low[i]);
  }

  template <int M>
  static RunFunction exact_function(int bits) {
    static constexpr RunFunction table[] = {exact_run<1, M>, exact_run<2, M>, exact_run<3, M>, exact_run<4, M>,
                                            exact_run<5, M>, exact_run<6, M>, exact_run<7, M>, exact_run<8, M>};
    return table[bits - 1];
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

  static void exact(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride) {
    constexpr int M = V::kRegisters >= 32 ? 4 : 1;
    for (size_t tile = begin; tile < end; ++tile) {  // a tile's weights stay near while the rows pass by
      size_t i = 0;
      for (; i + M <= x.rows; i += M)
        tiles<M>(m, from_row(x, i), tile, tile + 1, out + i * stride, stride, exact_function<M>);
      for (; i < x.rows; ++i)
        tiles<1>(m, from_row(x, i), tile, tile + 1, out + i * stride, stride, exact_function<1>);
    }
  }

  // --- many rows: codes of some tiles unpacked once, then multiplied with blocks of rows ---

  static constexpr int kPair = V::kRegisters >= 32 ? 2 : 1;    // tiles at a time
  static constexpr int kBlock = V::kRegisters >= 32 ? 12 : 4;  // rows at a time

  static size_t chunk_groups(const Layout& m) {
    const size_t width = m.steps * kColumns;
    return width >= kChunk ? 1 : kChunk / width;
  }
  static size_t block_rows(const Layout& m, size_t rows) {
    size_t block = kKept / (m.groups * m.steps * kColumns) / kBlock * kBlock;
    block = block < 48 ? 48 : block > 240 ? 240 : block;
    return rows < block ? rows : block;
  }
  static size_t many_scratch(const Layout& m, size_t rows) {
    return kPair * (chunk_groups(m) * m.steps * 64 + block_rows(m, rows) * 3 * kLane * sizeof(float));
  }

  template <int B>
  static void unpack_groups(const uint8_t* p, size_t count, size_t head, size_t steps, uint8_t* codes) {
    for (size_t g = 0; g < count; ++g) {
      p += head;
      for (size_t s = 0; s < steps; ++s, p += 8 * B, codes += 64) V::store_codes(codes, V::template expand<B>(p));
    }
  }
  using UnpackFunction = void (*)(const uint8_t*, size_t, size_t, size_t, uint8_t*);
  static UnpackFunction unpack_function(int bits) {
    static constexpr UnpackFunction table[] = {unpack_groups<1>, unpack_groups<2>, unpack_groups<3>, unpack_groups<4>,
                                               unpack_groups<5>, unpack_groups<6>, unpack_groups<7>, unpack_groups<8>};
    return table[bits - 1];
  }

  // The integer sums of one group; row i of the activations starts at x + offset(i). All indices are constants once
  // unrolled, so the sums stay in registers.
  template <int T, int M, int B, class Offset>
  static inline void sums_of(size_t steps, const uint8_t* codes, size_t codes_stride, const int8_t* x, Offset offset,
                             int32_t (*out)[T][kLane]) {
    I t[M][T];
#pragma GCC unroll 12
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < T; ++j) t[i][j] = V::izero();
    for (size_t s = 0; s < steps; ++s, codes += 64, x += kColumns) {
      Codes w[T];
#pragma GCC unroll 2
      for (int j = 0; j < T; ++j) w[j] = V::load_codes(codes + j * codes_stride);
#pragma GCC unroll 12
      for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < T; ++j) t[i][j] = V::template dot<B>(t[i][j], w[j], x + offset(i));
    }
#pragma GCC unroll 12
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < T; ++j) V::store_int(out[i][j], t[i][j]);
  }

  // One group's integer sums into the float sums of row i, which stand at sums[((i * T) + t) * 2 * kLane].
  template <int T>
  static inline void keep(const Run& run, const Header* headers, const int32_t (*found)[kLane], const Activations8& x,
                          size_t at, float* sums) {
    for (int j = 0; j < T; ++j, sums += 2 * kLane) {
      F sum = V::load(sums), low = V::load(sums + kLane);
      add(run, headers[j], V::load_int(found[j]), x, at, sum, low);
      V::store(sums, sum);
      V::store(sums + kLane, low);
    }
  }

  // The second digits of those of M rows whose group is wide, some rows at a time.
  template <int T, int M, int B>
  static inline void rests(const Layout& m, const Run& run, size_t g, const Header* headers, const uint8_t* codes,
                           size_t codes_stride, const View& x, float* sums) {
    constexpr int kSome = M < 4 ? M : 4;
    size_t wide[M + kSome], count = 0;
    for (int i = 0; i < M; ++i)
      if (x.rest.scales[i * x.groups + g] != 0) wide[count++] = i;
    for (size_t i = count; i < count + kSome; ++i) wide[i] = 0;  // taken along, and not used
    for (size_t at = 0; at < count; at += kSome) {
      const size_t* rows = wide + at;
      Stretch s = x.stretches[rows[0] * x.groups + g];
      for (size_t i = 1; i < kSome && at + i < count; ++i) {
        const Stretch other = x.stretches[rows[i] * x.groups + g];
        s = {other.begin < s.begin ? other.begin : s.begin, other.end > s.end ? other.end : s.end};
      }
      alignas(64) int32_t found[kSome][T][kLane];
      sums_of<T, kSome, B>(s.end - s.begin, codes + s.begin * 64, codes_stride,
                           x.rest.codes + (g * m.steps + s.begin) * kColumns,
                           [&](int i) { return rows[i] * x.stride; }, found);
      for (size_t i = 0; i < kSome && at + i < count; ++i)
        keep<T>(run, headers, found[i], x.rest, rows[i] * x.groups + g, sums + rows[i] * T * 2 * kLane);
    }
  }

  // M rows times the same groups of T tiles.
  template <int T, int M, int B>
  static void block(const Layout& m, const Run& run, size_t first, size_t count, const uint8_t* const* heads,
                    const uint8_t* codes, size_t codes_stride, const View& x, float* sums) {
    const size_t bytes = group_bytes(run, m.steps);
    for (size_t k = 0; k < count; ++k, codes += m.steps * 64) {
      const size_t g = run.groups[first + k];
      alignas(64) int32_t found[M][T][kLane];
      sums_of<T, M, B>(m.steps, codes, codes_stride, x.int8.codes + g * m.steps * kColumns,
                       [&](int i) { return i * x.stride; }, found);
      Header headers[T];
      for (int j = 0; j < T; ++j) headers[j] = header(run, heads[j] + k * bytes);
      for (int i = 0; i < M; ++i)
        keep<T>(run, headers, found[i], x.int8, i * x.groups + g, sums + i * T * 2 * kLane);
      rests<T, M, B>(m, run, g, headers, codes, codes_stride, x, sums);
    }
  }

  template <int T, int B>
  static void blocks(const Layout& m, const Run& run, size_t first, size_t count, const uint8_t* const* heads,
                     const uint8_t* codes, size_t codes_stride, View x, float* sums) {
    const auto take = [&](int rows, auto function) {
      for (; x.rows >= static_cast<size_t>(rows); x = from_row(x, rows), sums += rows * T * 2 * kLane)
        function(m, run, first, count, heads, codes, codes_stride, x, sums);
    };
    take(kBlock, block<T, kBlock, B>);
    if constexpr (kBlock > 4) take(4, block<T, 4, B>);
    take(1, block<T, 1, B>);
  }

  template <int T>
  static void many_tiles(const Layout& m, const View& x, size_t tile, float* out, size_t stride, uint8_t* scratch) {
    const size_t groups = chunk_groups(m), codes_stride = groups * m.steps * 64;
    float* totals = reinterpret_cast<float*>(scratch + T * codes_stride);
    float* sums = totals + x.rows * T * kLane;
    std::memset(totals, 0, x.rows * T * kLane * sizeof(float));
    for (size_t r = 0; r < m.run_count; ++r) {
      const Run& run = m.runs[r];
      const size_t bytes = group_bytes(run, m.steps);
      const uint8_t* start[T];
      for (int j = 0; j < T; ++j) start[j] = m.data + (tile + j) * m.tile_bytes + run.begin;
      std::memset(sums, 0, x.rows * T * 2 * kLane * sizeof(float));
      for (size_t g = 0; g < run.count; g += groups) {
        const size_t count = run.count - g < groups ? run.count - g : groups;
        const uint8_t* heads[T];
        for (int j = 0; j < T; ++j) {
          heads[j] = start[j] + unit_bytes(run) + g * bytes;
          unpack_function(run.bits)(heads[j], count, scale_bytes(run) + offset_bytes(run), m.steps,
                                    scratch + j * codes_stride);
        }
        (run.bits == 8 ? blocks<T, 8> : blocks<T, 7>)(m, run, g, count, heads, scratch, codes_stride, x, sums);
      }
      for (size_t i = 0; i < x.rows; ++i)
        for (int j = 0; j < T; ++j) {
          float *total = totals + (i * T + j) * kLane, *sum = sums + (i * T + j) * 2 * kLane;
          V::store(total, fold(run, start[j], V::load(total), V::load(sum), V::load(sum + kLane)));
        }
    }
    for (size_t i = 0; i < x.rows; ++i)
      for (int j = 0; j < T; ++j) write(m, tile + j, V::load(totals + (i * T + j) * kLane), out + i * stride);
  }

  static void many(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride, void* scratch) {
    const size_t rows = block_rows(m, x.rows);
    for (size_t row = 0; row < x.rows; row += rows) {
      View part = from_row(x, row);
      part.rows = part.rows < rows ? part.rows : rows;
      float* to = out + row * stride;
      size_t tile = begin;
      for (; tile + kPair <= end; tile += kPair)
        many_tiles<kPair>(m, part, tile, to, stride, static_cast<uint8_t*>(scratch));
      for (; tile < end; ++tile) many_tiles<1>(m, part, tile, to, stride, static_cast<uint8_t*>(scratch));
    }
  }

  static constexpr Variant variant(const char* name) {
    return {name, quantize_row, few, many, exact, many_scratch};
  }
};

}  // namespace tailorbird
