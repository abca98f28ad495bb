// parallel_for for bodies that allocate: an exception in a worker would end the process, so it is carried to the caller.
#pragma once

#include <exception>
#include <mutex>

#include "kbit/threads.h"

namespace kbit {

template <class Body>
void guarded_for(int64_t count, int workers, Body&& body) {
  std::exception_ptr failure;
  std::mutex mutex;
  threads::parallel_for(count, workers, [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace kbit
