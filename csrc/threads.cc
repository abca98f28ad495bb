#include "kbit/threads.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kbit::threads {
namespace {

constexpr int kSpins = 20000;  // tens of microseconds: longer than the gap between two layers, shorter than a scheduler tick
constexpr int kMaxThreads = 256;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  void run(int workers, Task task, void* context) {
    std::unique_lock<std::mutex> region(region_, std::try_to_lock);
    if (workers <= 1 || !region.owns_lock()) {
      // The split must not depend on contention: the same worker numbers run here one after another.
      for (int worker = 0; worker < workers; ++worker) task(context, worker, workers);
      return;
    }
    spread(workers, task, context);
  }

  void run_together(int workers, Task task, void* context) {
    if (workers <= 1) return task(context, 0, 1);
    std::lock_guard<std::mutex> region(region_);
    spread(workers, task, context);
  }

 private:
  void spread(int workers, Task task, void* context) {
    grow(workers - 1);
    task_ = task;
    context_ = context;
    workers_ = workers;
    pending_.store(static_cast<int>(members_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    task(context, 0, workers);
    while (pending_.load(std::memory_order_acquire) != 0) relax();
  }

  void grow(int members) {
    while (static_cast<int>(members_.size()) < members) {
      const int index = static_cast<int>(members_.size()) + 1;
      const uint64_t seen = generation_.load(std::memory_order_relaxed);
      members_.emplace_back([this, index, seen] { member(index, seen); });
      members_.back().detach();
    }
  }

  void member(int index, uint64_t seen) {
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) relax();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      }
      ++seen;
      if (index < workers_) task_(context_, index, workers_);
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex region_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> pending_{0};
  std::vector<std::thread> members_;
  Task task_ = nullptr;
  void* context_ = nullptr;
  int workers_ = 0;
};

// Never destroyed: workers outlive static destructors. After a fork the child has no workers and gets a fresh pool.
std::atomic<Pool*> current_pool{nullptr};
std::atomic<int> requested{0};

Pool* pool() {
  Pool* existing = current_pool.load(std::memory_order_acquire);
  if (existing != nullptr) return existing;
  static std::mutex creation;
  std::lock_guard<std::mutex> lock(creation);
  existing = current_pool.load(std::memory_order_acquire);
  if (existing == nullptr) {
    static bool registered = false;
    if (!registered) pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); });
    registered = true;
    existing = new Pool;
    current_pool.store(existing, std::memory_order_release);
  }
  return existing;
}

int detected_count() {
  if (const char* text = std::getenv("KBIT_THREADS")) {
    const int asked = std::atoi(text);
    if (asked >= 1) return std::min(asked, kMaxThreads);
  }
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::clamp(CPU_COUNT(&set), 1, kMaxThreads);
  return 1;
}

}  // namespace

void Barrier::wait() {
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == workers_) {
    waiting_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int spin = 0; phase_.load(std::memory_order_acquire) == phase; ++spin) {
    if (spin < kSpins / 8) relax();
    else sched_yield();
  }
}

void run_together(int workers, Task task, void* context) { pool()->run_together(std::clamp(workers, 1, kMaxThreads), task, context); }

void run(int workers, Task task, void* context) { pool()->run(std::clamp(workers, 1, kMaxThreads), task, context); }

int default_count() {
  const int asked = requested.load(std::memory_order_relaxed);
  if (asked > 0) return asked;
  static const int detected = detected_count();
  return detected;
}

void set_default_count(int count) { requested.store(std::clamp(count, 0, kMaxThreads), std::memory_order_relaxed); }

}  // namespace kbit::threads
