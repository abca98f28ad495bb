// From planes to bytes: a k-block of a tile, 16 rows × 32 inputs, in eight registers of 16 rows × 4 inputs.
//
// vpermb turns 64 index bytes into 64 table bytes and reads only the low six bits of an index. A table that repeats over the bits
// which are not its own ignores them, so that fields need no mask; and since several tables fit into registers, one table for each
// place of a code within those six bits saves most shifts as well:
//
//   k = 1   six tables read bits 0 … 5 where they lie; one shift for bits 6 and 7
//   k = 2   three tables read bits 0–1, 2–3, 4–5; one shift for the fourth field
//   k = 3   two 2-bit fields in bits 0–3 and their two single bits in bits 4 and 5, joined by one vpternlog, are two codes
//   k = 4   one table; a shift for the upper nibble
//   k = 5   the nibble in bits 0–3, the single bits of two neighbouring steps in bits 4 and 5: each step looks at its own
//   k = 6   nibble and pair;  k = 7: nibble, pair and bit 6 by vpermi2b;  k = 8: vpermi2b twice, bit 7 chooses
//
// A trellis (kinds 8 + bits) looks up six bits as well: avx512/trellis.h.
#pragma once

#include <cstdint>

#include "avx512/tables.h"
#include "avx512/trellis.h"
#include "intrinsics.h"
#include "kbit/kbit.h"
#include "layout.h"

namespace kbit::avx512 {

// Emits the eight registers of a k-block: emit.template at<S>(register) for step S, inputs 4S … 4S + 3, steps in ascending order
// within each half of four. `blocks[p]` points at the k-block in plane p. The register is what the tables `t` look up.
template <int K, Output Out, class T, class Emit>
inline __attribute__((always_inline)) void decode(const uint8_t* const* blocks, const T& t, Emit& emit) {
  [[maybe_unused]] const __m512i nibbles = _mm512_set1_epi8(0x0f);
  if constexpr (is_trellis(K)) {
    decode_trellis<bits_of(K), Out>(blocks, t, emit);
  } else if constexpr (K == 1) {
    const __m512i v = load(blocks[0]);  // bits 0…7 hold steps 0 1 4 5 2 3 6 7
    const __m512i top = move<6, 0>(v);
    emit.template at<0>(t.template look_up<0>(v)), emit.template at<1>(t.template look_up<1>(v));
    emit.template at<2>(t.template look_up<4>(v)), emit.template at<3>(t.template look_up<5>(v));
    emit.template at<4>(t.template look_up<2>(v)), emit.template at<5>(t.template look_up<3>(v));
    emit.template at<6>(t.template look_up<0>(top)), emit.template at<7>(t.template look_up<1>(top));
  } else if constexpr (K == 2) {
    const auto quarter = [&]<int I>() __attribute__((always_inline)) {
      const __m512i v = load(blocks[0] + 64 * I);
      emit.template at<4 * I>(t.template look_up<0>(v)), emit.template at<4 * I + 1>(t.template look_up<1>(v));
      emit.template at<4 * I + 2>(t.template look_up<2>(v)), emit.template at<4 * I + 3>(t.template look_up<0>(move<6, 0>(v)));
    };
    quarter.template operator()<0>(), quarter.template operator()<1>();
  } else if constexpr (K == 3) {
    const __m512i one = load(blocks[1]);
    const auto quarter = [&]<int I>() __attribute__((always_inline)) {
      const __m512i two = load(blocks[0] + 64 * I);
      const __m512i high = join(move<4, 0>(two), nibbles, move<single_bit_position(4 * I + 2), 4>(one));
      const __m512i low = join(two, nibbles, move<single_bit_position(4 * I), 4>(one));
      emit.template at<4 * I>(t.template look_up<0>(low)), emit.template at<4 * I + 1>(t.template look_up<1>(low));
      emit.template at<4 * I + 2>(t.template look_up<0>(high)), emit.template at<4 * I + 3>(t.template look_up<1>(high));
    };
    quarter.template operator()<0>(), quarter.template operator()<1>();
  } else if constexpr (K == 8) {
    const auto step = [&]<int S>() __attribute__((always_inline)) {
      const __m512i v = load(blocks[0] + 64 * S);
      if constexpr (Out == Output::codes) emit.template at<S>(v);
      if constexpr (Out == Output::looked_up) emit.template at<S>(t.template look_up<0>(v));
    };
    step.template operator()<0>(), step.template operator()<1>(), step.template operator()<2>(), step.template operator()<3>();
    step.template operator()<4>(), step.template operator()<5>(), step.template operator()<6>(), step.template operator()<7>();
  } else {
    [[maybe_unused]] const __m512i below_six = _mm512_set1_epi8(0x3f);
    [[maybe_unused]] const __m512i pairs[2] = {load(blocks[K >= 6 ? 1 : 0]), load(blocks[K >= 6 ? 1 : 0] + 64)};
    [[maybe_unused]] const __m512i one = load(blocks[K == 5 ? 1 : K == 7 ? 2 : 0]);
    const auto step = [&]<int S>(__m512i four) __attribute__((always_inline)) {
      if constexpr (K == 4) emit.template at<S>(t.template look_up<0>(four));
      if constexpr (K == 5) {
        const __m512i index = join(four, nibbles, move<single_bit_position(S / 2 * 2), 4>(one));
        emit.template at<S>(t.template look_up<S % 2>(index));
      }
      if constexpr (K >= 6) {
        __m512i index = join(four, nibbles, move<S % 4 * 2, 4>(pairs[S / 4]));
        if constexpr (K == 7) index = join(index, below_six, move<single_bit_position(S), 6>(one));
        emit.template at<S>(t.template look_up<0>(index));
      }
    };
    const auto pair_of_steps = [&]<int I>() __attribute__((always_inline)) {
      const __m512i v = load(blocks[0] + 64 * I);
      const __m512i upper = move<4, 0>(v);
      step.template operator()<2 * I>(v);
      step.template operator()<2 * I + 1>(upper);
    };
    pair_of_steps.template operator()<0>(), pair_of_steps.template operator()<1>();
    pair_of_steps.template operator()<2>(), pair_of_steps.template operator()<3>();
  }
}

constexpr int kPlaneAhead = 2560;  // bytes of each plane asked for ahead of their use

// Into the second level: measured best of both and of 0 … 10240 bytes on a Granite Rapids. Lines on their way to the first are too few.
template <int Width>
inline __attribute__((always_inline)) void ask_ahead(const uint8_t* block) {
#pragma GCC unroll 8
  for (int line = 0; line < Width; ++line) _mm_prefetch(block + kPlaneAhead + 64 * line, _MM_HINT_T1);
}

// Pointers of a tile's planes, advanced k-block by k-block.
template <int K>
struct Cursor {
  const uint8_t* blocks[3];
  inline __attribute__((always_inline)) Cursor(const Matrix& m, int64_t tile) { block_pointers(m, tile, 0, blocks); }
  explicit inline __attribute__((always_inline)) Cursor(const uint8_t* const* first) {
    for (int p = 0; p < plane_count(K); ++p) blocks[p] = first[p];
  }
  // Asks for what lies ahead: a block's arithmetic fills the reorder buffer, so that its loads alone do not run far enough ahead.
  inline __attribute__((always_inline)) void prefetch() const {
    ask_ahead<plane_width(K, 0)>(blocks[0]);
    if constexpr (plane_count(K) > 1) ask_ahead<plane_width(K, 1)>(blocks[1]);
    if constexpr (plane_count(K) > 2) ask_ahead<plane_width(K, 2)>(blocks[2]);
  }
  inline __attribute__((always_inline)) void next() {
    blocks[0] += 64 * plane_width(K, 0);
    if constexpr (plane_count(K) > 1) blocks[1] += 64 * plane_width(K, 1);
    if constexpr (plane_count(K) > 2) blocks[2] += 64 * plane_width(K, 2);
  }
};

// Of a trellis: its lines, and the line before them.
template <int K>
  requires(is_trellis(K))
struct Cursor<K> {
  static constexpr int kBits = bits_of(K);
  const uint8_t* blocks[3];
  inline __attribute__((always_inline)) Cursor(const Matrix& m, int64_t tile) { block_pointers(m, tile, 0, blocks); }
  explicit inline __attribute__((always_inline)) Cursor(const uint8_t* const* first) : blocks{first[0], first[1], nullptr} {}
  inline __attribute__((always_inline)) void prefetch() const { ask_ahead<kBits>(blocks[0]); }
  inline __attribute__((always_inline)) void next() {
    blocks[1] = blocks[0] + 64 * (kBits - 1);
    blocks[0] += 64 * kBits;
  }
};

// Writes the bytes of a k-block in the order that they are read again: 64 for each four inputs.
struct Store {
  uint8_t* out;
  template <int S>
  inline __attribute__((always_inline)) void at(__m512i bytes) {
    _mm512_storeu_si512(out + 64 * S, bytes);
  }
};

// The bytes of `count` k-blocks, 32 · 16 each. `blocks` is moved on.
template <int K, Output Out>
void decode_blocks(const TablesOf<K>& shared, const uint8_t** blocks, int64_t count, uint8_t* out) {
  const TablesOf<K> tables = shared;  // in registers: a copy that no store can change
  Cursor<K> cursor(blocks);
  for (int64_t block = 0; block < count; ++block, cursor.next()) {
    cursor.prefetch();
    Store store{out + block * kBlockInputs * kTileRows};
    decode<K, Out>(cursor.blocks, tables, store);
  }
  for (int p = 0; p < (is_trellis(K) ? 2 : plane_count(K)); ++p) blocks[p] = cursor.blocks[p];
}

template <int K, Output Out>
void decode_tile(const Matrix& m, const TablesOf<K>& tables, int64_t tile, uint8_t* out) {
  const uint8_t* blocks[3];
  block_pointers(m, tile, 0, blocks);
  decode_blocks<K, Out>(tables, blocks, m.kblocks, out);
}

}  // namespace kbit::avx512
