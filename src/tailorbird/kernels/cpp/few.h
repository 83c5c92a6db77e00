// Few rows: weights straight from memory into the multiplication.
#pragma once

#include "groups.h"

namespace tailorbird {

template <class V>
struct Few : Groups<V> {
  using G = Groups<V>;
  using I = typename V::I;
  using F = typename V::F;
  using Codes = typename V::Codes;
  using typename G::Header;
  using G::kAhead, G::header, G::take, G::add, G::fold;
  using typename G::RunFunction;

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

  // A group of signs times one row.
  static inline I look_up(const uint8_t* p, size_t steps, const SignSums* sums) {
    constexpr size_t kChains = 2, kBytes = kSignSteps * 8;
    I low[kChains] = {V::izero(), V::izero()}, high[kChains] = {V::izero(), V::izero()};
    const auto add = [&](size_t chain) {
      const I places = V::places(p + chain * kBytes);
      low[chain] = V::look_up(low[chain], places, sums[chain].low);
      high[chain] = V::look_up(high[chain], places, sums[chain].high);
    };
    for (; steps >= kChains * kSignSteps; steps -= kChains * kSignSteps, p += kChains * kBytes, sums += kChains) {
      V::prefetch(p + kAhead);
      add(0), add(1);
    }
    if (steps) add(0);
    return V::iadd(V::iadd(low[0], low[1]), V::shift_left(V::iadd(high[0], high[1]), 8));
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

  static void few_signs(const Layout& m, const Run& run, const uint8_t* p, const View& x, F* total) {
    const uint8_t* units = p;
    p += unit_bytes(run);
    const size_t head = scale_bytes(run), body = m.steps * 8, width = m.steps * kColumns;
    F sum = V::fset(0), low = V::fset(0);
    for (size_t k = 0; k < run.count; ++k, p += head + body) {
      const size_t g = run.groups[k];
      const Header h = header(run, p);
      take(h, look_up(p + head, m.steps, x.signs + g * (m.steps / kSignSteps)), x.int8.scales[g], sum);
      if (x.rest.scales[g] != 0)
        add(run, h, second<1>(p + head, x.stretches[g], x.rest.codes + g * width), x.rest, g, sum, low);
    }
    *total = fold(run, units, *total, sum, low);
  }

  template <int B, int M>
  static void few_run_of(const Layout& m, const Run& run, const uint8_t* p, const View& x, F* total) {
    if constexpr (M == 1 && B == 1 && V::kSignSums)
      if (x.signs && signs(run, m.steps)) return few_signs(m, run, p, x, total);
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
  static void few_tiles(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride) {
    G::template tiles<M>(m, x, begin, end, out, stride, few_function<M>);
  }

  static void few(const Layout& m, const View& x, size_t begin, size_t end, float* out, size_t stride) {
    static constexpr decltype(&few_tiles<1>) table[] = {few_tiles<1>, few_tiles<2>, few_tiles<3>, few_tiles<4>,
                                                        few_tiles<5>, few_tiles<6>, few_tiles<7>, few_tiles<8>};
    if (x.rows) table[x.rows - 1](m, x, begin, end, out, stride);
  }
};

}  // namespace tailorbird
