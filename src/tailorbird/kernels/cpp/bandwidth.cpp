// What the memory gives: the wall that a product of one row runs into.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace tailorbird {
namespace {

constexpr size_t kPage = size_t{2} << 20;

// Sums all words, as far ahead of itself as the kernels are.
uint64_t sum_words(const uint8_t* p, const uint8_t* end) {
  uint64_t sums[16] = {};
  for (; p < end; p += 128) {
    __builtin_prefetch(p + 4096);
    __builtin_prefetch(p + 4160);
    uint64_t words[16];
    std::memcpy(words, p, sizeof words);
    for (int i = 0; i < 16; ++i) sums[i] += words[i];
  }
  uint64_t sum = 0;
  for (uint64_t s : sums) sum += s;
  return sum;
}

}  // namespace

double read_bandwidth(size_t bytes, double seconds) {
  using Clock = std::chrono::steady_clock;
  bytes = std::max(kPage, (bytes + kPage - 1) / kPage * kPage);
  const std::shared_ptr<uint8_t> data = huge_pages(bytes);
  std::memset(data.get(), 1, bytes);
  auto pool = Pool::acquire();
  std::atomic<uint64_t> total{0};
  double best = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  do {
    const auto start = Clock::now();
    pool->split(bytes / kPage, 1, [&](size_t begin, size_t stop, size_t) {
      total += sum_words(data.get() + begin * kPage, data.get() + stop * kPage);
    });
    const std::chrono::duration<double> took = Clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / took.count());
  } while (Clock::now() < end);
  return total.load() ? best : 0;
}

}  // namespace tailorbird
