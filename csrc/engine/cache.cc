// Pages of keys and values, and the sequences that own them.
#include <sys/mman.h>

#include <cstring>
#include <new>

#include "kbit/engine.h"
#include "vector/vector_ops.h"

namespace kbit::engine {

Cache::Cache(int64_t layers, int64_t kv_heads, int64_t head_dim, CacheFormat format, int64_t pages)
    : layers_(layers), kv_heads_(kv_heads), head_dim_(head_dim), pages_(pages), format_(format) {
  block_bytes_ = ceil_div(cache_block_bytes(format, head_dim), 64) * 64;
  page_bytes_ = block_bytes_ * layers * kv_heads;
  const size_t bytes = static_cast<size_t>(pages) * static_cast<size_t>(page_bytes_);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, bytes, MADV_HUGEPAGE);
  memory_ = static_cast<uint8_t*>(memory);
  references_.assign(static_cast<size_t>(pages), 0);
  free_.reserve(static_cast<size_t>(pages));
  for (int64_t page = pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

Cache::~Cache() {
  if (memory_ != nullptr) munmap(memory_, static_cast<size_t>(pages_ * page_bytes_));
}

int64_t Cache::create() {
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (!sequences_[i].alive) {
      sequences_[i].alive = true;
      return static_cast<int64_t>(i);
    }
  }
  sequences_.push_back({{}, 0, true});
  return static_cast<int64_t>(sequences_.size()) - 1;
}

bool Cache::alive(int64_t sequence) const {
  return sequence >= 0 && sequence < static_cast<int64_t>(sequences_.size()) && sequences_[static_cast<size_t>(sequence)].alive;
}

int64_t Cache::fork(int64_t sequence, int64_t length) {
  const int64_t child = create();
  Sequence& to = sequences_[static_cast<size_t>(child)];
  const Sequence& from = sequences_[static_cast<size_t>(sequence)];
  to.pages.assign(from.pages.begin(), from.pages.begin() + ceil_div(length, kPagePositions));
  to.length = length;
  for (const int32_t page : to.pages) ++references_[static_cast<size_t>(page)];
  return child;
}

void Cache::truncate(int64_t sequence, int64_t length) {
  Sequence& s = sequences_[static_cast<size_t>(sequence)];
  const auto keep = static_cast<size_t>(ceil_div(length, kPagePositions));
  while (s.pages.size() > keep) {
    drop(s.pages.back());
    s.pages.pop_back();
  }
  s.length = length;
}

void Cache::release(int64_t sequence) {
  truncate(sequence, 0);
  sequences_[static_cast<size_t>(sequence)].alive = false;
}

void Cache::drop(int32_t page) {
  if (--references_[static_cast<size_t>(page)] == 0) free_.push_back(page);
}

bool Cache::reserve(int64_t sequence, int64_t count) {
  Sequence& s = sequences_[static_cast<size_t>(sequence)];
  const auto wanted = static_cast<size_t>(ceil_div(s.length + count, kPagePositions));
  const bool started = s.length % kPagePositions != 0;
  const bool copies = started && references_[static_cast<size_t>(s.pages.back())] > 1;
  if (wanted - s.pages.size() + (copies ? 1 : 0) > free_.size()) return false;
  const auto take = [&] {
    const int32_t page = free_.back();
    free_.pop_back();
    references_[static_cast<size_t>(page)] = 1;
    return page;
  };
  if (copies) {
    const int32_t shared = s.pages.back(), own = take();
    std::memcpy(memory_ + own * page_bytes_, memory_ + shared * page_bytes_, static_cast<size_t>(page_bytes_));
    drop(shared);
    s.pages.back() = own;
  }
  while (s.pages.size() < wanted) s.pages.push_back(take());
  return true;
}

}  // namespace kbit::engine
