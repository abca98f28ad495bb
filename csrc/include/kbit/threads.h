// Persistent worker threads with spin-then-sleep barriers.
//
// `run` splits nothing itself: it calls task(context, worker, workers) once on each of `workers` threads, the caller being
// worker 0, and returns when all are done. Work is split statically by the caller, so results never depend on timing.
// One region runs at a time; a second caller (another Python thread) runs its region alone on its own thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace kbit::threads {

using Task = void (*)(void* context, int worker, int workers);

void run(int workers, Task task, void* context);

// The same for tasks whose workers wait for each other (Barrier): all run at once, so a second caller waits until the region is free.
void run_together(int workers, Task task, void* context);

// All workers of a region wait here for the last one. Spins first, then yields: a region may have more workers than there are CPUs.
class Barrier {
 public:
  void reset(int workers) {
    workers_ = workers;
    waiting_.store(0, std::memory_order_relaxed);
  }
  void wait();

 private:
  int workers_ = 1;
  alignas(64) std::atomic<int> waiting_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// Threads used where a caller asks for 0: KBIT_THREADS, or the CPUs this process may run on.
int default_count();
void set_default_count(int count);

// body(begin, end) over a static contiguous split of [0, count).
template <class Body>
void parallel_for(int64_t count, int workers, Body&& body) {
  if (workers <= 0) workers = default_count();
  workers = static_cast<int>(std::min<int64_t>(workers, std::max<int64_t>(count, 1)));
  struct Context {
    Body* body;
    int64_t count;
  } context{&body, count};
  run(
      workers,
      [](void* opaque, int worker, int total) {
        auto* c = static_cast<Context*>(opaque);
        const int64_t begin = c->count * worker / total;
        const int64_t end = c->count * (worker + 1) / total;
        if (begin < end) (*c->body)(begin, end);
      },
      &context);
}

}  // namespace kbit::threads
