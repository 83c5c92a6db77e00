// Threads that are made once and kept. Between two parallel sections they spin for some microseconds, then sleep.
#pragma once

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

  // f(begin, end, thread) over 0..count in pieces of `piece`: thread t takes piece t, and whoever is free the rest.
  template <class F>
  void split(size_t count, size_t piece, F&& f) {
    if (count <= piece || workers_.empty()) {
      if (count) f(size_t{0}, count, size_t{0});
      return;
    }
    std::atomic<size_t> next{size() * piece};
    each([&](size_t thread) {
      for (size_t begin = thread * piece; begin < count; begin = next.fetch_add(piece, std::memory_order_relaxed))
        f(begin, begin + piece < count ? begin + piece : count, thread);
    });
  }

  // What a thread will read first in one of the next parallel sections: it fetches that into its cache while it waits.
  struct Ahead {
    const uint8_t* data = nullptr;
    size_t bytes = 0;
  };
  void expect(size_t thread, Ahead what) {
    ahead_[thread].data.store(what.data, std::memory_order_relaxed);
    ahead_[thread].bytes.store(what.bytes, std::memory_order_relaxed);
  }

  // Inside a parallel section: waits until every thread of the pool has come here.
  void barrier();

  // Scratch of `bytes` for each thread, 64-byte aligned; kept, and grown only. Call it outside parallel sections.
  void reserve(size_t bytes);
  void* scratch(size_t thread) const { return scratch_[thread].get(); }

 private:
  explicit Pool(size_t threads);
  void work(size_t thread);
  void fetch(size_t thread, uint32_t seen) const;

  struct Free {
    void operator()(void* p) const;
  };
  struct alignas(64) Wanted {
    std::atomic<const uint8_t*> data{nullptr};
    std::atomic<size_t> bytes{0};
  };
  std::vector<std::unique_ptr<void, Free>> scratch_;
  std::vector<Wanted> ahead_;
  size_t scratch_bytes_ = 0;
  std::vector<std::thread> workers_;
  void (*task_)(void*, size_t) = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;
  alignas(64) std::atomic<uint32_t> section_{0};  // counts parallel sections
  alignas(64) std::atomic<uint32_t> busy_{0};     // workers that have not finished this one
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> passed_{0};   // counts barriers
};

}  // namespace tailorbird
