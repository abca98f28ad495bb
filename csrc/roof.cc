#include "kbit/roof.h"

#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>

#include "kbit/threads.h"
#include "kernels.h"

namespace kbit {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Kept for the life of the process: probes are interleaved with measurements and must not pay for fresh pages.
struct Buffer {
  uint8_t* data = nullptr;
  int64_t bytes = 0;

  bool reserve(int64_t wanted) {
    if (wanted <= bytes) return true;
    if (data != nullptr) munmap(data, static_cast<size_t>(bytes));
    void* memory = mmap(nullptr, static_cast<size_t>(wanted), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data = memory == MAP_FAILED ? nullptr : static_cast<uint8_t*>(memory);
    bytes = data == nullptr ? 0 : wanted;
    if (data == nullptr) return false;
    madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
    std::memset(data, 1, static_cast<size_t>(bytes));
    return true;
  }
};

std::atomic<uint64_t> sink;  // keeps the loops from being optimised away

}  // namespace

double memory_roof(int64_t bytes, int threads) {
  static Buffer buffer;
  static std::mutex mutex;  // one probe at a time: two would measure each other
  const std::lock_guard<std::mutex> lock(mutex);
  bytes = bytes / 4096 * 4096;
  if (bytes <= 0 || !buffer.reserve(bytes)) return 0.0;
  const Kernels& kernels = active_kernels();
  const auto start = Clock::now();
  threads::parallel_for(bytes / 4096, threads, [&](int64_t begin, int64_t end) {
    sink.fetch_add(kernels.read(buffer.data + begin * 4096, (end - begin) * 4096), std::memory_order_relaxed);
  });
  return static_cast<double>(bytes) / seconds_since(start) / 1e9;
}

double int8_roof(int threads) {
  const Kernels& kernels = active_kernels();
  if (threads <= 0) threads = threads::default_count();
  constexpr int64_t kRounds = 2'000'000;
  std::atomic<int64_t> per_thread{0};
  const auto start = Clock::now();
  threads::parallel_for(threads, threads, [&](int64_t, int64_t) {
    per_thread.store(kernels.dot_products(kRounds), std::memory_order_relaxed);  // the same count on each thread
  });
  return static_cast<double>(per_thread.load()) * threads / seconds_since(start) / 1e9;
}

}  // namespace kbit
