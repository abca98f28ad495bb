// Arrays that end at a page which may not be touched: a read or write past the end faults.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <random>

namespace kbit::test {

// `count` values whose last byte is the last of a page; the next page faults.
template <class T>
class Guarded {
 public:
  Guarded() = default;
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { release(); }

  void resize(int64_t count) {
    release();
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    size_ = (bytes + page - 1) / page * page + page;
    memory_ = static_cast<uint8_t*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED || mprotect(memory_ + size_ - page, page, PROT_NONE) != 0) std::abort();
    data_ = reinterpret_cast<T*>(memory_ + size_ - page - bytes);
    count_ = count;
  }
  void randomize(std::mt19937& rng) {
    for (int64_t i = 0; i < count_; ++i) data_[i] = static_cast<T>(rng());
  }
  T* begin() { return data_; }
  T* end() { return data_ + count_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + count_; }

 private:
  void release() {
    if (memory_ != nullptr) munmap(memory_, size_);
  }
  uint8_t* memory_ = nullptr;
  T* data_ = nullptr;
  size_t size_ = 0;
  int64_t count_ = 0;
};

}  // namespace kbit::test
