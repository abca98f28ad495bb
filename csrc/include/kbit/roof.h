// What the machine can do at best, for benchmarks to compare with in the same run.
#pragma once

#include <cstdint>

namespace kbit {

// GB/s of one pass of a plain reading loop over `bytes` of memory (far more than the caches hold), on `threads` threads.
double memory_roof(int64_t bytes, int threads);

// 10⁹ int8 multiply-adds/s of the active instruction set's dot product on registers alone, all threads together.
double int8_roof(int threads);

}  // namespace kbit
