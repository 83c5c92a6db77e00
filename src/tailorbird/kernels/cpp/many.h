// Many rows: codes of some tiles unpacked once, then multiplied with blocks of rows.
#pragma once

#include "groups.h"

namespace tailorbird {

template <class V>
struct Many : Groups<V> {
  using G = Groups<V>;
  using I = typename V::I;
  using F = typename V::F;
  using Codes = typename V::Codes;
  using typename G::Header;
  using G::kLane, G::header, G::add, G::fold, G::write, G::from_row;

  static constexpr size_t kChunk = 4096;       // columns unpacked at a time
  static constexpr size_t kKept = 384 * 1024;  // bytes of activations kept near while tiles pass by
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
};

}  // namespace tailorbird
