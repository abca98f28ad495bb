// A k-block of a joint codebook: codes are found once and looked up in a table for each component.
#pragma once

#include <cstdint>
#include <utility>

#include "decode.h"
#include "intrinsics.h"
#include "kernels.h"

namespace kbit::avx512 {

// The components of 16 rows × 4 codes.
template <int D>
struct Components {
  __m512i of[D];
};

// `value` holds 64 bytes for each component.
template <int K, int D>
struct JointTables {
  Tables<K> component[D];

  explicit inline __attribute__((always_inline)) JointTables(const uint8_t* value) : JointTables(value, std::make_integer_sequence<int, D>()) {}

  template <int Table>
  inline __attribute__((always_inline)) Components<D> look_up(__m512i index) const {
    Components<D> out;
#pragma GCC unroll 3
    for (int c = 0; c < D; ++c) out.of[c] = component[c].template look_up<Table>(index);
    return out;
  }

 private:
  template <int... C>
  inline __attribute__((always_inline)) JointTables(const uint8_t* value, std::integer_sequence<int, C...>)
      : component{Tables<K>(value + kJointEntries * C)...} {}
};

// Writes a k-block's components one after another, as those of D k-blocks.
template <int D>
struct JointStore {
  uint8_t* out;
  template <int S>
  inline __attribute__((always_inline)) void at(const Components<D>& w) {
#pragma GCC unroll 3
    for (int c = 0; c < D; ++c) _mm512_storeu_si512(out + kBlockInputs * kTileRows * c + 64 * S, w.of[c]);
  }
};

// The bytes of `count` k-blocks, D · 32 · 16 each. `blocks` is moved on.
template <int K, int D>
void decode_joint_blocks(const JointTables<K, D>& shared, const uint8_t** blocks, int64_t count, uint8_t* out) {
  const JointTables<K, D> tables = shared;  // in registers: a copy that no store can change
  Cursor<K> cursor(blocks);
  for (int64_t block = 0; block < count; ++block, cursor.next()) {
    cursor.prefetch();
    JointStore<D> store{out + block * D * kBlockInputs * kTileRows};
    decode<K, Output::looked_up>(cursor.blocks, tables, store);
  }
  for (int p = 0; p < plane_count(K); ++p) blocks[p] = cursor.blocks[p];
}

}  // namespace kbit::avx512
