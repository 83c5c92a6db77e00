// Float activations; codes are made floats.
#pragma once

#include "groups.h"

namespace tailorbird {

template <class V>
struct Exact : Groups<V> {
  using G = Groups<V>;
  using I = typename V::I;
  using F = typename V::F;
  using Codes = typename V::Codes;
  using typename G::Header;
  using typename G::RunFunction;
  using G::kAhead, G::header, G::fold, G::from_row;

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

  static void exact(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride) {
    constexpr int M = V::kRegisters >= 32 ? 4 : 1;
    for (size_t tile = begin; tile < end; ++tile) {  // a tile's weights stay near while the rows pass by
      size_t i = 0;
      for (; i + M <= x.rows; i += M)
        G::template tiles<M>(m, from_row(x, i), tile, tile + 1, out + i * stride, stride, exact_function<M>);
      for (; i < x.rows; ++i)
        G::template tiles<1>(m, from_row(x, i), tile, tile + 1, out + i * stride, stride, exact_function<1>);
    }
  }
};

}  // namespace tailorbird
