#include "kernels.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#if defined(TAILORBIRD_ARM) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "bits.h"
#include "pool.h"

namespace tailorbird {

extern const Variant portable;
extern const TrellisVariant trellis_portable;
#if defined(TAILORBIRD_X86)
extern const Variant avx2, avx512;
extern const TrellisVariant trellis_avx2, trellis_avx512;
#elif defined(TAILORBIRD_ARM)
extern const Variant neon, neon_dotprod;
extern const TrellisVariant trellis_neon, trellis_neon_dotprod;
#endif

namespace {

constexpr size_t kBlock = 1024;       // rows of activations brought into form at a time
constexpr size_t kAlone = 64 * 1024;  // bytes of weights times rows that are not worth waking other threads

#if defined(TAILORBIRD_ARM)
// Whether the processor multiplies and adds four bytes at once (sdot).
bool has_dotprod() {
#if defined(__APPLE__)
  return true;
#elif defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP of the kernel's interface
  return getauxval(AT_HWCAP) & kDotProduct;
#else
  return false;
#endif
}
#endif

std::vector<const Variant*> supported() {
  std::vector<const Variant*> found;
#if defined(TAILORBIRD_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("gfni"))
    found.push_back(&avx512);
  if (__builtin_cpu_supports("avx2")) found.push_back(&avx2);
#elif defined(TAILORBIRD_ARM)
  if (has_dotprod()) found.push_back(&neon_dotprod);
  found.push_back(&neon);
#endif
  found.push_back(&portable);
  return found;
}

const std::vector<const Variant*>& all() {
  static const std::vector<const Variant*> found = supported();
  return found;
}

std::atomic<const Variant*>& current() {
  static std::atomic<const Variant*> chosen{all().front()};
  return chosen;
}

// The variant chosen, for trellises.
const TrellisVariant& trellis_kernels() {
#if defined(TAILORBIRD_X86)
  if (current().load() == &avx512) return trellis_avx512;
  if (current().load() == &avx2) return trellis_avx2;
#elif defined(TAILORBIRD_ARM)
  if (current().load() == &neon_dotprod) return trellis_neon_dotprod;
  if (current().load() == &neon) return trellis_neon;
#endif
  return trellis_portable;
}

// f(g) for the groups of signs.
template <class F>
void each_of_signs(const Layout& m, F&& f) {
  for (size_t r = 0; r < m.run_count; ++r)
    if (signs(m.runs[r], m.steps))
      for (size_t k = 0; k < m.runs[r].count; ++k) f(static_cast<size_t>(m.runs[r].groups[k]));
}

bool tabulated(const Layout& m, const Inputs& in) {
  bool all = in.rows == 1;
  each_of_signs(m, [&](size_t g) { all = all && g < in.tabulated.size() && in.tabulated[g]; });
  return all;
}

View view(const Layout& m, const Inputs& in) {
  return {in.rows,
          in.stride,
          in.groups,
          {in.int8.codes.data(), in.int8.scales.data(), in.int8.sums.data()},
          {in.rest.codes.data(), in.rest.scales.data(), in.rest.sums.data()},
          in.stretches.data(),
          {in.values.data(), in.totals.data()},
          tabulated(m, in) ? in.signs.data() : nullptr};
}

// Grows a vector without keeping what was in it; never shrinks it.
template <class T>
void room(std::vector<T>& v, size_t size) {
  if (v.size() >= size) return;
  v.clear();
  v.resize(size);
}

// A row's columns in stored order, groups padded with zeros.
void arrange(const Layout& m, const float* x, float* to, size_t width) {
  for (size_t g = 0; g < m.groups; ++g, to += width) {
    for (size_t c = 0; c < m.group_size; ++c) {
      const size_t k = g * m.group_size + c;
      to[c] = x[m.order ? static_cast<size_t>(m.order[k]) : k];
    }
    std::fill(to + m.group_size, to + width, 0.0f);
  }
}

// The inputs of whole operations, kept between calls. They belong to the pool: after fork the child starts anew.
Inputs& kept(Pool& pool) {
  if (!pool.kept) pool.kept = std::make_shared<Inputs>();
  return *static_cast<Inputs*>(pool.kept.get());
}

// One row of the weight; the definition, in two roundings.
void gather_run(const Layout& m, const Run& run, const uint8_t* p, size_t lane, float* out) {
  const bool byte = run.scale == Scale::byte, real = run.offset == Offset::real;
  const float unit = byte ? load_half(p + 2 * lane) : 1.0f;
  const float offset_unit = byte && real ? load_half(p + 2 * kRows + 2 * lane) : 1.0f;
  const size_t bits = static_cast<size_t>(run.bits), pair = lane / 2 * bits;
  p += unit_bytes(run);
  for (size_t k = 0; k < run.count; ++k) {
    const float scale = byte ? static_cast<float>(p[lane]) * unit : load_half(p + 2 * lane);
    p += scale_bytes(run);
    float offset = -(scale * (run.bits == 1 ? 0.5f : static_cast<float>(1 << (run.bits - 1))));
    if (run.offset == Offset::integer) offset = -scale * static_cast<float>(p[lane]);
    if (real) offset = byte ? static_cast<float>(static_cast<int8_t>(p[lane])) * offset_unit : load_half(p + 2 * lane);
    p += offset_bytes(run);
    const size_t first = static_cast<size_t>(run.groups[k]) * m.group_size;
    for (size_t s = 0; s < m.steps; ++s, p += 8 * bits) {
      uint64_t word = 0;
      std::memcpy(&word, p + pair, bits);
      word = transpose_bits(word) >> (lane % 2 * 32);
      for (size_t c = 0; c < std::min(kColumns, m.group_size - s * kColumns); ++c) {
        const size_t column = first + s * kColumns + c;
        float& to = out[m.order ? static_cast<size_t>(m.order[column]) : column];
        const float w = static_cast<float>((word >> (8 * c)) & 255) * scale + offset;
        to = run.adds ? to + w : w;
      }
    }
  }
}

void multiply_all(Pool& pool, const Matrix& matrix, const Inputs& in, float* out, Activations mode) {
  const Layout& m = matrix.layout();
  const bool alone = m.tiles * m.tile_bytes * in.rows <= kAlone;
  const size_t most = in.rows > kFew ? 16 : std::max<size_t>(2, 64 * 1024 / m.tile_bytes);
  const size_t share = (m.tiles / (4 * pool.size()) + 1) / 2 * 2;
  const size_t piece = alone ? m.tiles : std::clamp<size_t>(share, 2, most);
  pool.split(m.tiles, piece, [&](size_t begin, size_t end, size_t thread) {
    multiply(matrix, in, begin, end, out, m.rows, mode, pool.scratch(thread));
  });
}

}  // namespace

std::vector<const char*> variants() {
  std::vector<const char*> names;
  for (const Variant* v : all()) names.push_back(v->name);
  return names;
}

const char* variant() { return current().load()->name; }

bool use_variant(const char* name) {
  for (const Variant* v : all()) {
    if (std::strcmp(v->name, name) == 0) {
      current().store(v);
      return true;
    }
  }
  return false;
}

void reserve(const Matrix& matrix, size_t n, Activations mode, Inputs& in) {
  const Layout& m = matrix.layout();
  in.rows = n;
  in.groups = m.groups;
  in.stride = m.groups * m.steps * kColumns;
  if (mode == Activations::fp32 || m.order) room(in.values, n * in.stride);
  if (mode == Activations::fp32) return room(in.totals, n * in.groups);
  for (Inputs::Terms* terms : {&in.int8, &in.rest}) {
    room(terms->codes, n * in.stride);
    room(terms->scales, n * in.groups);
    room(terms->sums, n * in.groups);
  }
  room(in.stretches, n * in.groups);
  room(in.tabulated, m.groups);
  if (n == 1) room(in.signs, m.groups * (m.steps / kSignSteps));
}

void prepare(const Matrix& matrix, const float* x, size_t x_stride, size_t begin, size_t end, Activations mode,
             Inputs& in) {
  const Layout& m = matrix.layout();
  const size_t width = m.steps * kColumns;
  if (begin == 0 && mode == Activations::int8) std::fill(in.tabulated.begin(), in.tabulated.end(), uint8_t{0});
  for (size_t i = begin; i < end; ++i) {
    const float* row = x + i * x_stride;
    float* values = in.values.data() + i * in.stride;
    if (mode == Activations::fp32) {
      arrange(m, row, values, width);
      for (size_t g = 0; g < m.groups; ++g) {
        double sum = 0;
        for (size_t c = 0; c < width; ++c) sum += static_cast<double>(values[g * width + c]);
        in.totals[i * m.groups + g] = static_cast<float>(sum);
      }
      continue;
    }
    if (m.order) {
      for (size_t k = 0; k < m.cols; ++k) values[k] = row[m.order[k]];
      row = values;
    }
    const auto row_of = [&](Inputs::Terms& to) {
      return Rounded{to.codes.data() + i * in.stride, to.scales.data() + i * m.groups, to.sums.data() + i * m.groups};
    };
    const Rows8 to{row_of(in.int8), row_of(in.rest), in.stretches.data() + i * m.groups};
    current().load()->quantize(row, m.group_size, m.groups, to);
  }
}

void tabulate(const Matrix& matrix, Activations mode, Inputs& in) {
  const auto make = current().load()->tabulate;
  const Layout& m = matrix.layout();
  if (!make || in.rows != 1 || mode == Activations::fp32) return;
  each_of_signs(m, [&](size_t g) {
    if (in.tabulated[g]) return;
    make(in.int8.codes.data() + g * m.steps * kColumns, m.steps, in.signs.data() + g * (m.steps / kSignSteps));
    in.tabulated[g] = 1;
  });
}

size_t scratch_bytes(const Matrix& matrix, size_t n, Activations mode) {
  if (matrix.layout().trellis)
    return mode == Activations::fp32 || n > kFew ? trellis_kernels().scratch(matrix.layout(), n) : 0;
  return mode == Activations::int8 && n > kFew ? current().load()->many_scratch(matrix.layout(), n) : 0;
}

void multiply(const Matrix& matrix, const Inputs& in, size_t begin, size_t end, float* out, size_t out_stride,
              Activations mode, void* scratch) {
  const Variant& v = *current().load();
  const Layout& m = matrix.layout();
  if (m.trellis) {
    const TrellisVariant& t = trellis_kernels();
    if (mode == Activations::fp32) return t.exact(m, view(m, in), begin, end, out, out_stride, scratch);
    if (in.rows > kFew) return t.many(m, view(m, in), begin, end, out, out_stride, scratch);
    return t.few(m, view(m, in), begin, end, out, out_stride);
  }
  if (mode == Activations::fp32)
    v.exact(m, view(m, in), begin, end, out, out_stride);
  else if (in.rows > kFew)
    v.many(m, view(m, in), begin, end, out, out_stride, scratch);
  else
    v.few(m, view(m, in), begin, end, out, out_stride);
}

void matmul(const Matrix& matrix, const float* x, size_t n, float* out, Activations mode) {
  if (!n) return;
  auto pool = Pool::acquire();
  Inputs& in = kept(*pool);
  for (size_t row = 0; row < n; row += kBlock) {
    const size_t rows = std::min(kBlock, n - row);
    const float* from = x + row * matrix.cols();
    reserve(matrix, rows, mode, in);
    pool->reserve(scratch_bytes(matrix, rows, mode));
    pool->split(rows, 16, [&](size_t begin, size_t end, size_t) {
      prepare(matrix, from, matrix.cols(), begin, end, mode, in);
    });
    tabulate(matrix, mode, in);
    multiply_all(*pool, matrix, in, out + row * matrix.rows(), mode);
  }
}

void gather_row(const Matrix& matrix, size_t id, float* out) {
  const Layout& m = matrix.layout();
  if (m.trellis) return gather_trellis(m, id, out);
  const uint8_t* tile = m.data + id / kRows * m.tile_bytes;
  std::memset(out, 0, m.cols * sizeof(float));
  for (size_t r = 0; r < m.run_count; ++r) gather_run(m, m.runs[r], tile + m.runs[r].begin, id % kRows, out);
}

void gather(const Matrix& matrix, const int64_t* ids, size_t n, float* out) {
  const size_t cols = matrix.cols();
  if (n * cols <= kAlone) {
    for (size_t i = 0; i < n; ++i) gather_row(matrix, static_cast<size_t>(ids[i]), out + i * cols);
    return;
  }
  Pool::acquire()->split(n, 16, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) gather_row(matrix, static_cast<size_t>(ids[i]), out + i * cols);
  });
}

}  // namespace tailorbird
