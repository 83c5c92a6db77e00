// The Python module. Arrays are checked here: shapes, dtypes and contiguity before any pointer is used.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "kernels.h"
#include "pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tailorbird {
namespace {

using Any = nb::ndarray<nb::device::cpu, nb::c_contig>;
using MaybeArray = std::optional<Any>;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

// A dense array of this dtype code, element size and shape.
void expect(const Any& a, const char* name, nb::dlpack::dtype_code code, int bits, const std::vector<size_t>& shape) {
  std::string wanted = "(", found = "(";
  bool same = a.ndim() == shape.size();
  for (size_t i = 0; i < a.ndim(); ++i) found += std::to_string(a.shape(i)) + (i + 1 < a.ndim() ? ", " : "");
  for (size_t i = 0; i < shape.size(); ++i) {
    wanted += std::to_string(shape[i]) + (i + 1 < shape.size() ? ", " : "");
    same = same && a.shape(i) == shape[i];
  }
  if (!same) refuse(std::string(name) + " must be of shape " + wanted + "), not " + found + ")");
  const auto type = a.dtype();
  if (type.code != static_cast<uint8_t>(code) || type.bits != bits || type.lanes != 1)
    refuse(std::string(name) + " is of the wrong dtype");
}

// The same, for memory that is read number by number; stored arrays are read byte by byte.
void expect_aligned(const Any& a, const char* name, nb::dlpack::dtype_code code, int bits,
                    const std::vector<size_t>& shape) {
  expect(a, name, code, bits, shape);
  if (reinterpret_cast<uintptr_t>(a.data()) % (bits / 8)) refuse(std::string(name) + " is not aligned");
}

constexpr auto kUInt = nb::dlpack::dtype_code::UInt;
constexpr auto kInt = nb::dlpack::dtype_code::Int;
constexpr auto kFloat = nb::dlpack::dtype_code::Float;

template <class T = const uint8_t>
T* bytes(const Any& a) {
  return static_cast<T*>(const_cast<void*>(static_cast<const void*>(a.data())));
}

// Planes may share their rows with those of other runs: bytes start .. start + width of each are a run's.
void expect_part(const Any& planes, size_t rows, size_t start, size_t width) {
  if (planes.ndim() != 2 || width > planes.shape(1) || start > planes.shape(1) - width)
    refuse("planes need rows of at least " + std::to_string(start) + " + " + std::to_string(width) + " bytes");
  expect(planes, "planes", kUInt, 8, {rows, planes.shape(1)});
}

// What one run brings along, from Python: arrays with all rows first.
struct PackedRun {
  Source source;
  size_t rows = 0, group_size = 0;
  std::vector<Any> held;  // arrays stay alive while they are read
};

PackedRun make_run(size_t rows, size_t group_size, int bits, std::vector<int32_t> groups,
                   std::vector<int32_t> scale_index, size_t scale_count, Any planes, size_t planes_start, Any scales,
                   MaybeArray row_scales, MaybeArray zeros, size_t zeros_bit, size_t zero_width, MaybeArray offsets,
                   MaybeArray row_offsets) {
  if (bits < 1 || bits > 8) refuse("bits must be 1 to 8");
  if (!group_size || group_size > kMaxGroup) refuse("a group has 1 to 32768 columns");
  PackedRun run;
  Source& s = run.source;
  run.rows = rows;
  run.group_size = group_size;
  const size_t count = groups.size(), width = bits * ((count * group_size + 7) / 8);
  expect_part(planes, rows, planes_start, width);
  s.bits = bits;
  s.groups = std::move(groups);
  for (int32_t i : scale_index)
    if (i < 0 || static_cast<size_t>(i) >= scale_count) refuse("a scale index is out of range");
  s.scale_index = std::move(scale_index);
  s.planes = bytes(planes) + planes_start;
  s.planes_stride = planes.shape(1);
  s.scale = row_scales ? Scale::byte : Scale::half;
  const bool byte = s.scale == Scale::byte;
  expect(scales, "scales", byte ? kUInt : kFloat, byte ? 8 : 16, {rows, scale_count});
  s.scales = bytes(scales);
  s.scales_stride = scale_count * (byte ? 1 : 2);
  run.held = {planes, scales};
  if (row_scales) {
    expect(*row_scales, "row_scales", kFloat, 16, {rows});
    s.row_scales = bytes(*row_scales);
    run.held.push_back(*row_scales);
  }
  if (zeros && offsets) refuse("a run has zeros or offsets, not both");
  if (zeros) {
    if (zero_width < 1 || zero_width > 8) refuse("a zero point has 1 to 8 bits");
    if (zeros->ndim() != 2 || zeros->shape(1) * 8 < zeros_bit + count * zero_width) refuse("zeros are too short");
    expect(*zeros, "zeros", kUInt, 8, {rows, zeros->shape(1)});
    s.offset = Offset::integer;
    s.zeros = bytes(*zeros);
    s.zeros_stride = zeros->shape(1);
    s.zeros_bit = zeros_bit;
    s.zero_width = zero_width;
    run.held.push_back(*zeros);
  }
  if (offsets) {
    expect(*offsets, "offsets", byte ? kInt : kFloat, byte ? 8 : 16, {rows, scale_count});
    if (byte != row_offsets.has_value()) refuse("offsets of 8 bits need row_offsets, halves have none");
    s.offset = Offset::real;
    s.offsets = bytes(*offsets);
    s.offsets_stride = s.scales_stride;
    run.held.push_back(*offsets);
    if (row_offsets) {
      expect(*row_offsets, "row_offsets", kFloat, 16, {rows});
      s.row_offsets = bytes(*row_offsets);
      run.held.push_back(*row_offsets);
    }
  }
  return run;
}

void multiply_python(const Matrix& m, Any x, Any out, const std::string& activations) {
  const Activations mode = mode_of(activations);
  if (x.ndim() != 2) refuse("x must be of shape (n, columns)");
  const size_t n = x.shape(0);
  expect_aligned(x, "x", kFloat, 32, {n, m.cols()});
  expect_aligned(out, "out", kFloat, 32, {n, m.rows()});
  nb::gil_scoped_release free;
  matmul(m, bytes<const float>(x), n, bytes<float>(out), mode);
}

void gather_python(const Matrix& m, Any ids, Any out) {
  if (ids.ndim() != 1) refuse("ids must be of shape (n,)");
  const size_t n = ids.shape(0);
  expect_aligned(ids, "ids", kInt, 64, {n});
  expect_aligned(out, "out", kFloat, 32, {n, m.cols()});
  const int64_t* id = bytes<const int64_t>(ids);
  for (size_t i = 0; i < n; ++i)
    if (id[i] < 0 || static_cast<uint64_t>(id[i]) >= m.rows())
      throw std::out_of_range("index " + std::to_string(id[i]) + " is not a row of " + std::to_string(m.rows()));
  nb::gil_scoped_release free;
  gather(m, id, n, bytes<float>(out));
}

void unpack_python(const Matrix& m, size_t run, std::vector<int32_t> scale_index, Any planes, size_t planes_start,
                   Any scales, MaybeArray row_scales, MaybeArray zeros, size_t zeros_bit, size_t zero_width,
                   MaybeArray offsets, MaybeArray row_offsets) {
  if (run >= m.layout().run_count) throw std::out_of_range("no such run");
  const Run& r = m.layout().runs[run];
  const size_t rows = m.rows(), scale_count = scales.ndim() == 2 ? scales.shape(1) : 0;
  const bool byte = r.scale == Scale::byte;
  if (scale_index.size() != r.count) refuse("a run needs one scale a group");
  for (int32_t i : scale_index)
    if (i < 0 || static_cast<size_t>(i) >= scale_count) refuse("a scale index is out of range");
  const size_t width = r.bits * ((r.count * m.layout().group_size + 7) / 8);
  expect_part(planes, rows, planes_start, width);
  expect(scales, "scales", byte ? kUInt : kFloat, byte ? 8 : 16, {rows, scale_count});
  Target t;
  t.scale_index = std::move(scale_index);
  t.planes = bytes<uint8_t>(planes) + planes_start;
  t.planes_stride = planes.shape(1);
  t.scales = bytes<uint8_t>(scales);
  t.scales_stride = t.offsets_stride = scale_count * (byte ? 1 : 2);
  if (byte != row_scales.has_value()) refuse("row_scales go with scales of 8 bits");
  if (row_scales) {
    expect(*row_scales, "row_scales", kFloat, 16, {rows});
    t.row_scales = bytes<uint8_t>(*row_scales);
  }
  if (zeros.has_value() != (r.offset == Offset::integer)) refuse("zeros go with integer offsets");
  if (zeros) {
    if (zero_width < 1 || zero_width > 8) refuse("a zero point has 1 to 8 bits");
    if (zeros->ndim() != 2 || zeros->shape(1) * 8 < zeros_bit + r.count * zero_width) refuse("zeros are too short");
    expect(*zeros, "zeros", kUInt, 8, {rows, zeros->shape(1)});
    t.zeros = bytes<uint8_t>(*zeros);
    t.zeros_stride = zeros->shape(1);
    t.zeros_bit = zeros_bit;
    t.zero_width = zero_width;
  }
  if (offsets.has_value() != (r.offset == Offset::real)) refuse("offsets go with float offsets");
  if (offsets) {
    expect(*offsets, "offsets", byte ? kInt : kFloat, byte ? 8 : 16, {rows, scale_count});
    t.offsets = bytes<uint8_t>(*offsets);
    if (byte != row_offsets.has_value()) refuse("row_offsets go with offsets of 8 bits");
  }
  if (row_offsets) {
    expect(*row_offsets, "row_offsets", kFloat, 16, {rows});
    t.row_offsets = bytes<uint8_t>(*row_offsets);
  }
  nb::gil_scoped_release free;
  m.unpack(run, t);
}

void set_variant(const std::string& name) {
  if (use_variant(name.c_str())) return;
  std::string known;
  for (const char* v : variants()) known += (known.empty() ? "" : ", ") + std::string(v);
  refuse("this processor has no kernels '" + name + "'; it has " + known);
}

}  // namespace

Activations mode_of(const std::string& name) {
  if (name == "int8") return Activations::int8;
  if (name == "fp32") return Activations::fp32;
  refuse("activations must be 'int8' or 'fp32', not '" + name + "'");
}

}  // namespace tailorbird

NB_MODULE(_native, m) {
  using namespace tailorbird;
  nb::class_<PackedRun>(m, "Run", "One bit-width over some groups of columns; its arrays are kept alive.")
      .def_static("make", &make_run, "rows"_a, "group_size"_a, "bits"_a, "groups"_a, "scale_index"_a, "scale_count"_a,
                  "planes"_a.noconvert(), "planes_start"_a, "scales"_a.noconvert(), "row_scales"_a.none().noconvert(),
                  "zeros"_a.none().noconvert(), "zeros_bit"_a, "zero_width"_a, "offsets"_a.none().noconvert(),
                  "row_offsets"_a.none().noconvert());
  nb::class_<Matrix>(m, "Matrix", "A packed weight in the layout of the kernels; see kernels.h.")
      .def(
          "__init__",
          [](Matrix* self, size_t rows, size_t group_size, size_t groups, std::vector<const PackedRun*> runs,
             std::vector<int32_t> order) {
            std::vector<Source> sources;
            for (const PackedRun* run : runs) {
              if (run->rows != rows || run->group_size != group_size) refuse("a run is of another shape");
              sources.push_back(run->source);
            }
            nb::gil_scoped_release free;
            new (self) Matrix(rows, group_size, groups, sources, std::move(order));
          },
          "rows"_a, "group_size"_a, "groups"_a, "runs"_a, "order"_a)
      .def_prop_ro("rows", &Matrix::rows)
      .def_prop_ro("cols", &Matrix::cols)
      .def_prop_ro("nbytes", &Matrix::nbytes)
      .def("matmul", &multiply_python, "x"_a.noconvert(), "out"_a.noconvert(), "activations"_a)
      .def("gather", &gather_python, "ids"_a.noconvert(), "out"_a.noconvert())
      .def("unpack", &unpack_python, "run"_a, "scale_index"_a, "planes"_a.noconvert(), "planes_start"_a, "scales"_a.noconvert(),
           "row_scales"_a.none().noconvert(), "zeros"_a.none().noconvert(), "zeros_bit"_a, "zero_width"_a, "offsets"_a.none().noconvert(), "row_offsets"_a.none().noconvert());
  m.def("variants", [] {
    std::vector<std::string> names;
    for (const char* name : variants()) names.push_back(name);
    return names;
  });
  m.def("variant", [] { return std::string(variant()); });
  m.def("use_variant", &set_variant, "name"_a);
  m.def("read_bandwidth", [](size_t bytes, double seconds) {
    nb::gil_scoped_release free;
    return read_bandwidth(bytes, seconds);
  }, "bytes"_a, "seconds"_a);
  m.def("set_threads", [](size_t n) {
    nb::gil_scoped_release free;
    Pool::set_threads(n);
  }, "threads"_a);
  m.def("threads", [] {
    nb::gil_scoped_release free;
    return Pool::threads();
  });
  bind_decoder(m);
  bind_trellis(m);
}
