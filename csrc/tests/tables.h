// The vector operations of every instruction set that this processor runs, held against the plain ones.
#pragma once

#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels.h"
#include "tests/check.h"
#include "tests/guarded.h"

namespace kbit::test {

struct Table {
  std::string name;
  const VectorOps* ops;
};

inline std::vector<Table> tables() {
  const kbit::Kernels* all[8];
  const int count = kbit::available_kernels(all, 8);
  std::vector<Table> found;
  for (int i = count - 1; i >= 0; --i) found.push_back({all[i]->name, all[i]->vector});
  return found;  // the plain ones first
}

template <class T>
std::vector<uint8_t> bytes_of(const Guarded<T>& x) {
  const auto* p = reinterpret_cast<const uint8_t*>(x.begin());
  return {p, p + sizeof(T) * static_cast<size_t>(x.end() - x.begin())};
}

// run(ops) → bytes: equal for every table.
inline void alike(const std::string& what, const std::function<std::vector<uint8_t>(const VectorOps&)>& run) {
  const std::vector<Table> all = tables();
  const std::vector<uint8_t> want = run(*all[0].ops);
  for (size_t i = 1; i < all.size(); ++i) expect(run(*all[i].ops) == want, what + " on " + all[i].name);
}

inline void near(const std::string& what, double found, double want, double bound) {
  expect(std::fabs(found - want) <= bound, what + ": " + std::to_string(found) + " for " + std::to_string(want));
}

inline void print_tables() {
  std::printf("instruction sets:");
  for (const Table& table : tables()) std::printf(" %s", table.name.c_str());
  std::printf("\n");
}

}  // namespace kbit::test
