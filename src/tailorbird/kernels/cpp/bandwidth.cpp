#include "bandwidth.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "pool.h"
#include "simd.h"

namespace tailorbird {

namespace {

constexpr size_t kPiece = size_t{1} << 20;
constexpr size_t kPage = size_t{2} << 20;

// The sum is of no use to anybody, but makes sure that all is read.
TAILORBIRD_CLONES float read(const float* data, size_t count) {
  Floats a{}, b{}, c{}, d{};
  for (size_t i = 0; i + 4 * kLanes <= count; i += 4 * kLanes) {
    __builtin_prefetch(data + i + 1024);
    a += load(data + i);
    b += load(data + i + kLanes);
    c += load(data + i + 2 * kLanes);
    d += load(data + i + 3 * kLanes);
  }
  return sum(a + b + c + d);
}

}  // namespace

double read_bandwidth(size_t bytes, size_t passes) {
  bytes = std::max(kPage, bytes / kPage * kPage);
  std::unique_ptr<float, decltype(&std::free)> buffer(static_cast<float*>(std::aligned_alloc(kPage, bytes)), &std::free);
  if (!buffer) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  madvise(buffer.get(), bytes, MADV_HUGEPAGE);
#endif
  Pool::Lease pool = Pool::acquire();
  const size_t count = bytes / sizeof(float), piece = kPiece / sizeof(float);
  pool->split(count, piece, [&](size_t begin, size_t end, size_t) {
    std::fill(buffer.get() + begin, buffer.get() + end, 1.0f);
  });
  std::vector<float> sums(pool->size());
  double best = 0;
  for (size_t pass = 0; pass < passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool->split(count, piece, [&](size_t begin, size_t end, size_t thread) {
      sums[thread] += read(buffer.get() + begin, end - begin);
    });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / took.count());
  }
  volatile float kept = 0;
  for (float s : sums) kept = kept + s;
  return best;
}

}  // namespace tailorbird
