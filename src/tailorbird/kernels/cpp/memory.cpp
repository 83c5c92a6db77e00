#include "memory.h"

#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tailorbird {
namespace {

constexpr size_t kHuge = size_t{2} << 20;
constexpr size_t kChunk = 8 * kHuge;  // where small weights stand together; pages that nobody wrote to take no memory
constexpr size_t kLine = 64;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kTogether = false;  // so that reading beyond the end of one is seen
#else
constexpr bool kTogether = true;
#endif

size_t up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

std::shared_ptr<uint8_t> aligned(size_t bytes, size_t unit) {
  const std::shared_ptr<void> found(std::aligned_alloc(unit, up(bytes, unit)), std::free);
  if (!found) throw std::bad_alloc();
  return std::static_pointer_cast<uint8_t>(found);
}

}  // namespace

std::shared_ptr<uint8_t> huge_pages(size_t bytes) {
  const std::shared_ptr<uint8_t> found = aligned(bytes, kHuge);
#if defined(__linux__)
  madvise(found.get(), up(bytes, kHuge), MADV_HUGEPAGE);
#endif
  return found;
}

std::shared_ptr<uint8_t> weight_room(size_t bytes) {
  thread_local std::weak_ptr<uint8_t> open;
  thread_local size_t used = 0;
  if (bytes >= kHuge) return huge_pages(bytes);
  if (!kTogether) return aligned(bytes, kLine);
  std::shared_ptr<uint8_t> chunk = open.lock();
  if (!chunk || kChunk - used < bytes) {
    open = chunk = huge_pages(kChunk);
    used = 0;
  }
  uint8_t* const at = chunk.get() + used;
  used += up(bytes, kLine);
  return {chunk, at};
}

}  // namespace tailorbird
