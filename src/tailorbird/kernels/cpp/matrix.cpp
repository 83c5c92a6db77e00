// From the canonical arrays to tiles and back.
#include <cstring>
#include <stdexcept>

#include "bits.h"
#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace tailorbird {
namespace {

// Copies one entry a row into the 16 entries of a tile: `bytes` each, zeros for rows that are not there.
void spread(uint8_t* to, const uint8_t* from, size_t stride, size_t first, size_t rows, size_t bytes) {
  for (size_t r = 0; r < kRows; ++r, to += bytes) {
    if (first + r < rows)
      std::memcpy(to, from + (first + r) * stride, bytes);
    else
      std::memset(to, 0, bytes);
  }
}

void gather_back(uint8_t* to, size_t stride, const uint8_t* from, size_t first, size_t rows, size_t bytes) {
  for (size_t r = 0; r < kRows && first + r < rows; ++r)
    std::memcpy(to + (first + r) * stride, from + r * bytes, bytes);
}

void check(const Source& run, size_t groups) {
  if (run.bits < 1 || run.bits > 8) throw std::invalid_argument("bits must be 1 to 8");
  if (run.groups.empty()) throw std::invalid_argument("a run needs at least one group");
  if (run.scale_index.size() != run.groups.size()) throw std::invalid_argument("a run needs one scale a group");
  for (int32_t g : run.groups)
    if (g < 0 || static_cast<size_t>(g) >= groups) throw std::invalid_argument("a run's group is out of range");
}

void check_order(const std::vector<int32_t>& order, size_t cols) {
  if (order.empty()) return;
  if (order.size() != cols) throw std::invalid_argument("a column order needs every column");
  std::vector<bool> used(cols);
  for (int32_t c : order) {
    if (c < 0 || static_cast<size_t>(c) >= cols || used[c])
      throw std::invalid_argument("the column order is not a permutation");
    used[c] = true;
  }
}

// The codes of one tile and group: `steps` steps from bit `at` of the planes.
void pack_codes(uint8_t* to, const Source& from, size_t plane_bytes, size_t at, size_t columns, size_t first,
                size_t rows) {
  const size_t bits = from.bits, steps = (columns + kColumns - 1) / kColumns;
  for (size_t r = 0; r < kRows; r += 2) {
    const bool low = first + r < rows, high = first + r + 1 < rows;
    for (size_t p = 0; p < bits; ++p) {
      const uint8_t* plane = from.planes + (first + r) * from.planes_stride + p * plane_bytes;
      uint8_t* out = to + r / 2 * bits + p;
      for (size_t s = 0; s < steps; ++s, out += 8 * bits) {
        const size_t left = columns - s * kColumns, n = left < kColumns ? left : kColumns;
        uint8_t byte = low ? read_bits(plane, at + s * kColumns, n) : 0;
        if (high) byte |= read_bits(plane + from.planes_stride, at + s * kColumns, n) << 4;
        *out = byte;
      }
    }
  }
}

void unpack_codes(const uint8_t* from, size_t bits, const Target& to, size_t plane_bytes, size_t at,
                  size_t columns, size_t first, size_t rows) {
  const size_t steps = (columns + kColumns - 1) / kColumns;
  for (size_t r = 0; r < kRows && first + r < rows; ++r) {
    for (size_t p = 0; p < bits; ++p) {
      uint8_t* plane = to.planes + (first + r) * to.planes_stride + p * plane_bytes;
      const uint8_t* in = from + r / 2 * bits + p;
      for (size_t s = 0; s < steps; ++s, in += 8 * bits) {
        const size_t left = columns - s * kColumns, n = left < kColumns ? left : kColumns;
        or_bits(plane, at + s * kColumns, n, (*in >> (r % 2 * 4)) & 15);
      }
    }
  }
}

}  // namespace

void Matrix::add(const Source& source, std::vector<bool>& seen) {
  check(source, layout_.groups);
  groups_.push_back(source.groups);
  Run run{source.bits, source.scale, source.offset, false, layout_.tile_bytes, source.groups.size(),
          groups_.back().data()};
  for (int32_t g : source.groups) {
    run.adds = run.adds || seen[g];
    seen[g] = true;
  }
  layout_.tile_bytes += unit_bytes(run) + run.count * group_bytes(run, layout_.steps);
  runs_.push_back(run);
}

void Matrix::shape(size_t rows, size_t group_size, size_t groups) {
  if (!rows || !group_size || !groups) throw std::invalid_argument("a matrix needs rows, groups and columns");
  if (group_size > kMaxGroup) throw std::invalid_argument("a group has at most 32768 columns");
  if (groups > kMaxColumns / group_size || rows > size_t{1} << 32) throw std::invalid_argument("too large");
  layout_.rows = rows;
  layout_.cols = group_size * groups;
  layout_.group_size = group_size;
  layout_.groups = groups;
  layout_.steps = (group_size + kColumns - 1) / kColumns;
  layout_.tiles = (rows + kRows - 1) / kRows;
}

void Matrix::allocate() {
  if (tiles() > (SIZE_MAX / 4) / layout_.tile_bytes) throw std::invalid_argument("too large");
  data_ = weight_room(nbytes());
  layout_.data = data_.get();
}

Matrix::Matrix(size_t rows, size_t group_size, size_t groups, const std::vector<Source>& runs,
               std::vector<int32_t> order)
    : order_(std::move(order)) {
  shape(rows, group_size, groups);
  if (runs.empty()) throw std::invalid_argument("a matrix needs at least one run");
  check_order(order_, cols());
  std::vector<bool> seen(groups);
  for (const Source& source : runs) add(source, seen);
  allocate();
  layout_.runs = runs_.data();
  layout_.run_count = runs_.size();
  layout_.order = order_.empty() ? nullptr : order_.data();
  fill(runs);
}

void Matrix::fill(const std::vector<Source>& sources) {
  const size_t gs = layout_.group_size, rows = layout_.rows, steps = layout_.steps;
  auto pool = Pool::acquire();
  pool->split(tiles(), 16, [&](size_t begin, size_t end, size_t) {
    for (size_t tile = begin; tile < end; ++tile) {
      const size_t first = tile * kRows;
      uint8_t* to = data_.get() + tile * layout_.tile_bytes;
      for (size_t i = 0; i < runs_.size(); ++i) {
        const Run& run = runs_[i];
        const Source& from = sources[i];
        const size_t plane_bytes = (run.count * gs + 7) / 8, scale = scale_width(run);
        if (run.scale == Scale::byte) {
          spread(to, from.row_scales, 2, first, rows, 2);
          if (run.offset == Offset::real) spread(to + 2 * kRows, from.row_offsets, 2, first, rows, 2);
          to += unit_bytes(run);
        }
        for (size_t g = 0; g < run.count; ++g) {
          const size_t entry = from.scale_index[g];
          spread(to, from.scales + entry * scale, from.scales_stride, first, rows, scale);
          to += scale_bytes(run);
          if (run.offset == Offset::integer) {
            for (size_t r = 0; r < kRows; ++r)
              to[r] = first + r < rows ? read_bits(from.zeros + (first + r) * from.zeros_stride,
                                                    from.zeros_bit + g * from.zero_width, from.zero_width)
                                        : 0;
          } else if (run.offset == Offset::real) {
            spread(to, from.offsets + entry * scale, from.offsets_stride, first, rows, scale);
          }
          to += offset_bytes(run);
          pack_codes(to, from, plane_bytes, g * gs, gs, first, rows);
          to += steps * 8 * run.bits;
        }
      }
    }
  });
  std::memset(data_.get() + tiles() * layout_.tile_bytes, 0, kSlack);
}

void Matrix::unpack(size_t index, const Target& target) const {
  const Run& run = runs_.at(index);
  const size_t gs = layout_.group_size, rows = layout_.rows, steps = layout_.steps;
  const size_t plane_bytes = (run.count * gs + 7) / 8, scale = scale_width(run);
  auto pool = Pool::acquire();
  pool->split(tiles(), 16, [&](size_t begin, size_t end, size_t) {
    for (size_t t = begin; t < end; ++t) {
      const size_t first = t * kRows;
      const uint8_t* from = data_.get() + t * layout_.tile_bytes + run.begin;
      if (run.scale == Scale::byte) {
        if (target.row_scales) gather_back(target.row_scales, 2, from, first, rows, 2);
        if (run.offset == Offset::real && target.row_offsets)
          gather_back(target.row_offsets, 2, from + 2 * kRows, first, rows, 2);
        from += unit_bytes(run);
      }
      for (size_t g = 0; g < run.count; ++g) {
        const size_t entry = target.scale_index[g];
        gather_back(target.scales + entry * scale, target.scales_stride, from, first, rows, scale);
        from += scale_bytes(run);
        if (run.offset == Offset::integer) {
          for (size_t r = 0; r < kRows && first + r < rows; ++r)
            or_bits(target.zeros + (first + r) * target.zeros_stride, target.zeros_bit + g * target.zero_width,
                    target.zero_width, from[r]);
        } else if (run.offset == Offset::real) {
          gather_back(target.offsets + entry * scale, target.offsets_stride, from, first, rows, scale);
        }
        from += offset_bytes(run);
        unpack_codes(from, run.bits, target, plane_bytes, g * gs, gs, first, rows);
        from += steps * 8 * run.bits;
      }
    }
  });
}

}  // namespace tailorbird
