// Weights that are paths through a trellis, for Python; see trellis.h. Shapes are checked here before any pointer is
// used. Halves come and go as bytes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>

#include <memory>
#include <optional>
#include <stdexcept>

#include "bindings.h"
#include "trellis_search.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tailorbird {
namespace {

template <class T>
using Rows = nb::ndarray<T, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
template <class T>
using List = nb::ndarray<T, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
template <class T>
using MaybeRows = std::optional<Rows<T>>;

void check(bool good, const char* what) {
  if (!good) throw std::invalid_argument(what);
}

size_t stream_bytes(const List<const uint8_t>& halves, size_t group_size) {
  check(group_size && group_size % kUnit == 0 && group_size <= kMaxGroup, "groups are whole units of 16 columns");
  check(halves.size() && halves.size() <= kMaxColumns / group_size, "a row has no groups, or too many columns");
  size_t bytes = 0;
  for (size_t g = 0; g < halves.size(); ++g) {
    check(halves.data()[g] >= 2 && halves.data()[g] <= kMaxHalves, "a column has 1 to 4 bits");
    bytes += group_size / kUnit * halves.data()[g];
  }
  return bytes;
}

// Bytes of the scales of a row, or nothing: they are of the wrong shape.
template <class T>
void check_arrays(const Rows<T>& stream, const Rows<T>& scales, const MaybeRows<T>& row_scales, size_t bytes,
                  size_t groups) {
  const size_t rows = stream.shape(0), width = row_scales ? 1 : 2;
  check(stream.shape(1) == bytes, "the stream is of another length");
  check(scales.shape(0) == rows && scales.shape(1) == width * groups, "the scales are of another shape");
  check(!row_scales || (row_scales->shape(0) == rows && row_scales->shape(1) == 2), "the row scales are of another shape");
}

std::shared_ptr<Matrix> make(size_t group_size, List<const uint8_t> halves, List<const uint8_t> tables,
                             Rows<const uint8_t> stream, Rows<const uint8_t> scales,
                             MaybeRows<const uint8_t> row_scales) {
  check_arrays(stream, scales, row_scales, stream_bytes(halves, group_size), halves.size());
  TrellisSource source;
  source.rows = stream.shape(0);
  source.group_size = group_size;
  source.halves.assign(halves.data(), halves.data() + halves.size());
  source.tables.assign(tables.data(), tables.data() + tables.size());
  source.stream = stream.data();
  source.scales = scales.data();
  source.row_scales = row_scales ? row_scales->data() : nullptr;
  nb::gil_scoped_release free;
  return std::make_shared<Matrix>(source);
}

void unpack(const Matrix& matrix, Rows<uint8_t> stream, Rows<uint8_t> scales, MaybeRows<uint8_t> row_scales) {
  const Trellis* trellis = matrix.layout().trellis;
  check(trellis && (trellis->run.scale == Scale::byte) == row_scales.has_value(), "the matrix has another format");
  size_t bytes = 0;
  for (size_t g = 0; g < matrix.layout().groups; ++g) bytes += matrix.layout().group_size / kUnit * trellis->halves[g];
  check(stream.shape(0) == matrix.rows(), "the matrix has other rows");
  check_arrays(stream, scales, row_scales, bytes, matrix.layout().groups);
  nb::gil_scoped_release free;
  matrix.unpack({stream.data(), scales.data(), row_scales ? row_scales->data() : nullptr});
}

void search(size_t group_size, List<const uint8_t> halves, Rows<const float> values, Rows<const float> weight,
            Rows<const float> scale, Rows<const float> upper, size_t beam, Rows<uint8_t> stream) {
  Search s{};
  s.rows = weight.shape(0);
  s.cols = weight.shape(1);
  s.group_size = group_size;
  s.beam = beam;
  s.stream_bytes = stream_bytes(halves, group_size);
  check(beam >= 1 && beam <= kMaxBeam, "the beam has 1 to 256 survivors");
  check(s.cols == halves.size() * group_size, "the weight has other columns");
  check(values.shape(0) == kMaxHalves + 1 && values.shape(1) == size_t{1} << kTrellisState, "the values are of another shape");
  check(scale.shape(0) == s.rows && scale.shape(1) == halves.size(), "the scales are of another shape");
  check(upper.shape(0) == s.cols && upper.shape(1) == s.cols, "the factor is of another shape");
  check(stream.shape(0) == s.rows && stream.shape(1) == s.stream_bytes, "the stream is of another length");
  s.halves = halves.data();
  s.values = values.data();
  s.weight = weight.data();
  s.scale = scale.data();
  s.upper = upper.data();
  s.stream = stream.data();
  nb::gil_scoped_release free;
  search_rows(s);
}

}  // namespace

void bind_trellis(nb::module_& m) {
  m.def("trellis_matrix", &make, "group_size"_a, "halves"_a.noconvert(), "tables"_a.noconvert(),
        "stream"_a.noconvert(), "scales"_a.noconvert(), "row_scales"_a.none().noconvert());
  m.def("trellis_unpack", &unpack, "matrix"_a, "stream"_a.noconvert(), "scales"_a.noconvert(),
        "row_scales"_a.none().noconvert());
  m.def("trellis_search", &search, "group_size"_a, "halves"_a.noconvert(), "values"_a.noconvert(),
        "weight"_a.noconvert(), "scale"_a.noconvert(), "upper"_a.noconvert(), "beam"_a, "stream"_a.noconvert());
}

}  // namespace tailorbird
