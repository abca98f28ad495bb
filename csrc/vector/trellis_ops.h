// What the trellis encoder does for each weight of a row (encode/trellis*.cc): one source for each instruction set, the same bytes on all.
//
// A state is the last ten bits of the stream, its newest step lowest: state s goes on to (s · K + c) mod 1024 for the K = 2^bits steps c. With
// Q = 1024 / K, the states that follow q, Q + q, 2Q + q … are q·K … q·K + K − 1: predecessors lie Q apart and successors side by side.
#pragma once

#include <cstdint>

namespace kbit {

constexpr int64_t kTrellisStates = 1024;
constexpr int64_t kTrellisLine = 16;  // columns whose errors or whose sums of errors lie in one cache line

// The Viterbi algorithm over some columns that share a scale: cost[s] is that of the best path to state s.
struct TrellisPass {
  int bits;
  const float* level;   // [1024], of each state
  const float* target;  // [count]
  const float* weight;  // [count], or null: all 1
  int64_t count;
  float scale;
  float* cost;          // [1024], in and out; afterwards the least is 0
  uint8_t* from;        // [count, Q]: which of the K predecessors
};

// A row of a block of columns whose errors are made up for. Each state that is kept has a slot.
struct TrellisWalk {
  int bits;
  const float* level;     // [1024], of each state
  const float* weights;   // [cols]
  const float* scale;     // [cols]
  const float* carried;   // [stride]: what columns before the block add, then zeros
  const float* factor;    // R [cols, stride] upper triangular, zeros elsewhere
  int64_t cols, stride;   // stride: cols in whole lines
  int64_t kept;           // about how many states are kept

  float *cost, *next;     // [1024]
  int32_t *who;           // [1024]: slot that the best path to a state came from
  float *lines, *moved, *before;  // [1024, 16]: of each slot its errors in the columns so far, and what they add to the others of this line
  int32_t *root, *moved_root, *before_root;  // [1024]: row of `far` for each slot
  float *far, *far_next;  // [1024, stride]: what older errors add to later lines
  int32_t* row;           // [1024]
  uint16_t *parent, *state;  // [cols, 1024]: of each slot after each column

  uint16_t first;         // state before the block
  uint16_t* path;         // [cols]: states of the best path found
};

struct TrellisOps {
  // The least cost after the columns, above what the least was before them.
  double (*pass)(const TrellisPass& pass);
  void (*walk)(TrellisWalk& walk);
};

}  // namespace kbit
