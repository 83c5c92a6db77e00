// Threads that are made once and kept. Between two parallel sections they spin for some microseconds, then sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace tailorbird {

class Pool {
 public:
  // The pool of this process (a child after fork gets one of its own) and the right to use it until the lock goes.
  class Lease {
   public:
    Pool* operator->() const { return pool_; }
    Pool& operator*() const { return *pool_; }

   private:
    friend class Pool;
    Lease(Pool* pool, std::unique_lock<std::mutex> lock) : pool_(pool), lock_(std::move(lock)) {}
    Pool* pool_;
    std::unique_lock<std::mutex> lock_;
  };
  static Lease acquire();
  static size_t threads();                 // size of the pool
  static void set_threads(size_t threads); // 1 to 256; 0: the processors this process may use
  static size_t processors();

  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // What the holder of the pool wants to find again; it goes with the pool.
  std::shared_ptr<void> kept;

  size_t size() const { return workers_.size() + 1; }

  // Call task(context, thread) once in each thread, 0 being the caller. Tasks must not throw.
  void run(void (*task)(void*, size_t), void* context);

  // f(thread) in each thread.
  template <class F>
  void each(F&& f) {
    run([](void* context, size_t thread) { (*static_cast<std::remove_reference_t<F>*>(context))(thread); }, &f);
  }

  // f(begin, end, thread) over 0..count in pieces of `piece`, taken by whoever is free.
  template <class F>
  void split(size_t count, size_t piece, F&& f) {
    if (count <= piece || workers_.empty()) {
      if (count) f(size_t{0}, count, size_t{0});
      return;
    }
    std::atomic<size_t> next{0};
    each([&](size_t thread) {
      for (size_t begin; (begin = next.fetch_add(piece, std::memory_order_relaxed)) < count;)
        f(begin, begin + piece < count ? begin + piece : count, thread);
    });
  }

  // --- Inside a parallel section, which may last long: every thread of the pool goes through the same calls. ---

  // Waits until every thread has come here; the last one calls f() before all go on.
  template <class F>
  void barrier(F&& f) {
    const uint32_t passed = passed_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == workers_.size()) {
      f();
      pass();
    } else {
      wait(passed);
    }
  }

  // f(begin, end) over 0..count, from one barrier to the next at most once: in pieces of at least `least`, of which each
  // thread's first is known beforehand; the others are taken by whoever is free.
  template <class F>
  void share(size_t count, size_t least, size_t thread, F&& f) {
    const size_t piece = piece_of(count, least);
    for (size_t at = thread; at * piece < count; at = size() + next_.fetch_add(1, std::memory_order_relaxed))
      f(at * piece, std::min((at + 1) * piece, count));
  }
  size_t piece_of(size_t count, size_t least) const { return std::max(least, count / (4 * size())); }

  // Scratch of `bytes` for each thread, 64-byte aligned; kept, and grown only. Call it outside parallel sections.
  void reserve(size_t bytes);
  void* scratch(size_t thread) const { return scratch_[thread].get(); }

 private:
  explicit Pool(size_t threads);
  void work(size_t thread);
  void pass();
  void wait(uint32_t passed);

  struct Free {
    void operator()(void* p) const;
  };
  std::vector<std::unique_ptr<void, Free>> scratch_;
  size_t scratch_bytes_ = 0;
  std::vector<std::thread> workers_;
  void (*task_)(void*, size_t) = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;
  alignas(64) std::atomic<uint32_t> section_{0};  // counts parallel sections
  alignas(64) std::atomic<uint32_t> busy_{0};     // workers that have not finished this one
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> passed_{0};   // counts barriers
  alignas(64) std::atomic<size_t> next_{0};       // of what `share` deals out
};

}  // namespace tailorbird
