// Paths through a trellis: from the canonical arrays to tiles and back, and single rows.
#include "trellis.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "bits.h"
#include "kernels.h"
#include "pool.h"

namespace tailorbird {
namespace {

size_t row_bytes(const Layout& m) {
  size_t bytes = 0;
  for (size_t g = 0; g < m.groups; ++g) bytes += m.group_size / kUnit * m.trellis->halves[g];
  return bytes;
}

}  // namespace

Matrix::Matrix(const TrellisSource& source) : halves_(source.halves), tables_(source.tables) {
  shape(source.rows, source.group_size, halves_.size());
  if (source.group_size % kUnit) throw std::invalid_argument("groups of a trellis are whole units of 16 columns");
  for (uint8_t halves : halves_)
    if (halves < 2 || halves > kMaxHalves) throw std::invalid_argument("a column has 1 to 4 bits");
  if (tables_.size() != (kMaxHalves + 1) * kTable) throw std::invalid_argument("tables of another size");
  groups_.emplace_back(halves_.size());
  std::iota(groups_[0].begin(), groups_[0].end(), 0);
  const Scale scale = source.row_scales ? Scale::byte : Scale::half;
  trellis_.run = {8, scale, Offset::none, false, 0, halves_.size(), groups_[0].data()};
  trellis_.halves = halves_.data();
  trellis_.tables = tables_.data();
  trellis_.scales = unit_bytes(trellis_.run);
  trellis_.strings = trellis_.scales + halves_.size() * scale_bytes(trellis_.run) + kBefore * kRows;
  layout_.trellis = &trellis_;
  const size_t bytes = row_bytes(layout_), width = scale_width(trellis_.run) * halves_.size();
  layout_.tile_bytes = trellis_.strings + bytes * kRows;
  allocate();
  Pool::acquire()->split(tiles(), 16, [&](size_t begin, size_t end, size_t) {
    std::memset(data_.get() + begin * layout_.tile_bytes, 0, (end - begin) * layout_.tile_bytes);
    for (size_t row = begin * kRows; row < std::min(end * kRows, rows()); ++row) {
      uint8_t* tile = data_.get() + row / kRows * layout_.tile_bytes;
      const size_t lane = row % kRows, size = scale_width(trellis_.run);
      if (source.row_scales) std::memcpy(tile + 2 * lane, source.row_scales + 2 * row, 2);
      for (size_t g = 0; g < halves_.size(); ++g)
        std::memcpy(tile + trellis_.scales + (g * kRows + lane) * size, source.scales + row * width + g * size, size);
      for (size_t b = 0; b < bytes; ++b) tile[trellis_.strings + b * kRows + lane] = source.stream[row * bytes + b];
    }
  });
  std::memset(data_.get() + tiles() * layout_.tile_bytes, 0, kSlack);
}

void Matrix::unpack(const TrellisTarget& target) const {
  const size_t bytes = row_bytes(layout_), size = scale_width(trellis_.run), width = size * halves_.size();
  Pool::acquire()->split(tiles(), 16, [&](size_t begin, size_t end, size_t) {
    for (size_t row = begin * kRows; row < std::min(end * kRows, rows()); ++row) {
      const uint8_t* tile = data_.get() + row / kRows * layout_.tile_bytes;
      const size_t lane = row % kRows;
      if (target.row_scales) std::memcpy(target.row_scales + 2 * row, tile + 2 * lane, 2);
      for (size_t g = 0; g < halves_.size(); ++g)
        std::memcpy(target.scales + row * width + g * size, tile + trellis_.scales + (g * kRows + lane) * size, size);
      for (size_t b = 0; b < bytes; ++b) target.stream[row * bytes + b] = tile[trellis_.strings + b * kRows + lane];
    }
  });
}

void gather_trellis(const Layout& m, size_t id, float* out) {
  const Trellis& t = *m.trellis;
  const uint8_t* tile = m.data + id / kRows * m.tile_bytes;
  const size_t lane = id % kRows;
  const bool byte = t.run.scale == Scale::byte;
  const float unit = byte ? load_half(tile + 2 * lane) : 1.0f;
  const uint8_t *heads = tile + t.scales, *bytes = tile + t.strings + lane;
  uint32_t state = 0;  // the oldest bit lowest
  size_t column = 0, bit = 0;
  for (size_t g = 0; g < m.groups; ++g, heads += scale_bytes(t.run)) {
    const float scale = byte ? static_cast<float>(heads[lane]) * unit : load_half(heads + 2 * lane);
    const uint8_t* table = t.tables + kTable * t.halves[g];
    for (size_t end = column + m.group_size; column < end; ++column) {
      const int bits = column_bits(t.halves[g], column);
      for (int k = 0; k < bits; ++k, ++bit)
        state = state >> 1 | static_cast<uint32_t>(bytes[bit / 8 * kRows] >> bit % 8 & 1) << (kTrellisState - 1);
      const uint8_t code = looked_up(t.halves[g], table, state >> (kTrellisState - window(t.halves[g])));
      out[column] = static_cast<float>(code - 128) * scale;
    }
  }
}

}  // namespace tailorbird
