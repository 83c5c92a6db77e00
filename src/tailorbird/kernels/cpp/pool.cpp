#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <cstdlib>
#include <new>
#include <stdexcept>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tailorbird {
namespace {

constexpr int kSpins = 2000;      // some 20 to 50 microseconds
constexpr size_t kFetched = 512;  // bytes between two looks at what there is to do

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` differs from `old`, and returns it: spinning first, then asleep.
uint32_t changed(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int spin = 0; spin < kSpins; ++spin) {
    const uint32_t now = value.load(std::memory_order_acquire);
    if (now != old) return now;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

// One pool a process. After fork the child has none of its parent's threads, and its locks may be held by threads
// that are gone: it starts anew, and the parent's pool is left where it is.
struct State {
  std::mutex mutex;
  Pool* pool = nullptr;
  size_t wanted = 0;  // 0: as many as there are processors
};

State& state() {
  alignas(State) static unsigned char place[sizeof(State)];
  static State* made = [] {
    pthread_atfork(nullptr, nullptr, [] {
      auto* old = reinterpret_cast<State*>(place);
      const size_t wanted = old->wanted;
      (new (place) State)->wanted = wanted;
    });
    return new (place) State;
  }();
  return *made;
}

thread_local bool inside = false;  // a parallel section

}  // namespace

size_t Pool::processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? count : 1;
}

Pool::Lease Pool::acquire() {
  State& s = state();
  std::unique_lock<std::mutex> lock(s.mutex);
  if (!s.pool) {
    const size_t wanted = s.wanted ? s.wanted : processors();
    s.pool = new Pool(wanted < 256 ? wanted : 256);
  }
  return Lease(s.pool, std::move(lock));
}

size_t Pool::threads() { return acquire()->size(); }

void Pool::set_threads(size_t threads) {
  if (threads > 256) throw std::invalid_argument("threads must be 1 to 256, or 0 for the processors there are");
  State& s = state();
  std::unique_lock<std::mutex> lock(s.mutex);
  s.wanted = threads;
  delete s.pool;
  s.pool = nullptr;
}

Pool::Pool(size_t threads) : scratch_(threads), ahead_(threads) {
  try {
    for (size_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error&) {
    // Fewer threads than wished for: the system gives no more. What there is works.
  }
}

Pool::~Pool() {
  stop_ = true;
  section_.fetch_add(1, std::memory_order_release);
  section_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::Free::operator()(void* p) const { std::free(p); }

void Pool::reserve(size_t bytes) {
  if (bytes <= scratch_bytes_) return;
  bytes = (bytes + 4095) / 4096 * 4096;
  scratch_bytes_ = 0;
  for (auto& piece : scratch_) {
    piece.reset();
    piece.reset(std::aligned_alloc(64, bytes));
    if (!piece) throw std::bad_alloc();
  }
  scratch_bytes_ = bytes;
}

void Pool::work(size_t thread) {
  inside = true;
  for (uint32_t seen = 0;;) {
    fetch(thread, seen);
    seen = changed(section_, seen);
    if (stop_) return;
    task_(context_, thread);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

// Until section `seen` is over. Addresses that are out of date do no harm: nothing is read.
void Pool::fetch(size_t thread, uint32_t seen) const {
  const uint8_t* data = ahead_[thread].data.load(std::memory_order_relaxed);
  const size_t bytes = ahead_[thread].bytes.load(std::memory_order_relaxed);
  for (size_t at = 0; at < bytes && section_.load(std::memory_order_relaxed) == seen; at += kFetched)
    for (size_t line = 0; line < kFetched; line += 64) __builtin_prefetch(data + at + line);
}

void Pool::run(void (*task)(void*, size_t), void* context) {
  if (workers_.empty() || inside) return task(context, 0);
  task_ = task;
  context_ = context;
  busy_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  section_.fetch_add(1, std::memory_order_release);
  section_.notify_all();
  inside = true;
  task(context, 0);
  inside = false;
  for (uint32_t left; (left = busy_.load(std::memory_order_acquire)) != 0;) changed(busy_, left);
}

void Pool::barrier() {
  if (workers_.empty()) return;
  const uint32_t passed = passed_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == workers_.size()) {
    arrived_.store(0, std::memory_order_relaxed);
    passed_.fetch_add(1, std::memory_order_release);
    passed_.notify_all();
  } else {
    changed(passed_, passed);
  }
}

}  // namespace tailorbird
