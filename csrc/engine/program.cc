// A program: its operations, the memory that they share, and the team that walks them.
#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "step.h"

namespace kbit::engine {
namespace {

// What the operations need of the workspace, in numbers of each kind.
struct Needs {
  int64_t input_cols = 16, second_cols = 0, quantized_bytes = 0, quantized_groups = 0, angles = 0, experts = 0, pair_rows = 0, gathered = 0, hidden = 0, expert_out = 0;
  int64_t top_k = 0, head_dim = 0, decoded = 0, latents = 0;
  bool remembers = false;

  void weight(const Weight& w) {
    input_cols = std::max(input_cols, w.cols());
    if (w.packed == nullptr) return;
    quantized_bytes = std::max(quantized_bytes, input_bytes(*w.packed));
    quantized_groups = std::max(quantized_groups, input_groups(*w.packed));
    decoded = std::max(decoded, scratch_bytes(*w.packed));
  }
  void operator()(const Embed& op) { weight(op.table); }
  void operator()(const Begin& op) { weight(op.table); }
  void operator()(const Normalize&) {}
  void operator()(const Select&) {}
  void operator()(const Linear& op) {
    int64_t ranks = 0;
    for (const Part& part : op.parts) weight(part.weight), ranks += rank_of(part.weight);
    latents = std::max(latents, ranks);
    if (!op.gated) return;
    const Weight &gate = op.parts[0].weight, &up = op.parts[1].weight;
    if (group_of(gate) != group_of(up) || rotation_of(gate) != rotation_of(up)) second_cols = std::max(second_cols, gate.cols());
  }
  void operator()(const Attention& op) {
    head_dim = std::max(head_dim, op.head_dim);
    angles = std::max(angles, 2 * op.rotary.pairs);
  }
  void operator()(const Remember& op) {
    head_dim = std::max(head_dim, op.head_dim);
    remembers = true;
  }
  void operator()(const CrossAttention& op) { head_dim = std::max(head_dim, op.head_dim); }
  void operator()(const Experts& op) {
    for (const Weight& w : op.gate_up) weight(w);
    for (const Weight& w : op.down) weight(w);
    input_cols = std::max(input_cols, op.down[0].rows());
    top_k = std::max(top_k, op.top_k);
    experts = std::max(experts, static_cast<int64_t>(op.gate_up.size()));
    gathered = std::max(gathered, op.top_k * op.router.cols());
    hidden = std::max(hidden, op.top_k * op.down[0].cols());
    expert_out = std::max(expert_out, op.top_k * op.down[0].rows());
    latents = std::max(latents, op.top_k * std::max(rank_of(op.gate_up[0]), rank_of(op.down[0])));
  }
};

// One mapping, cut into 64-byte aligned pieces; counted first, then handed out.
class Arena {
 public:
  ~Arena() {
    if (memory_ != nullptr) munmap(memory_, static_cast<size_t>(size_));
  }
  template <class T>
  void want(T*& place, int64_t count) {
    const int64_t offset = size_;
    size_ += ceil_div(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T)), 64) * 64;
    pieces_.push_back({reinterpret_cast<void**>(&place), offset});
  }
  void allocate() {
    void* memory = mmap(nullptr, static_cast<size_t>(size_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    madvise(memory, static_cast<size_t>(size_), MADV_HUGEPAGE);
    memory_ = static_cast<uint8_t*>(memory);
    for (const Piece& piece : pieces_) *piece.place = memory_ + piece.offset;
  }
  int64_t size() const { return size_; }

 private:
  struct Piece {
    void** place;
    int64_t offset;
  };
  uint8_t* memory_ = nullptr;
  int64_t size_ = 0;
  std::vector<Piece> pieces_;
};

}  // namespace

struct Program::State {
  int64_t max_rows;
  int max_threads = 0, input = -1, result = -1;
  bool remembers = false;
  std::vector<int64_t> widths;
  std::vector<float*> buffers;
  std::vector<Operation> operations;
  Workspace shared{};
  std::vector<Own> own;
  int32_t* positions = nullptr;
  int64_t* segment_of_row = nullptr;
  threads::Barrier barrier;
  Arena arena;

  void want_quantized(QuantizedRows& rows, const Needs& needs, int64_t count) {
    arena.want(rows.q, count * needs.quantized_bytes);
    arena.want(rows.scale, count * needs.quantized_groups);
    arena.want(rows.sum, count * needs.quantized_groups);
  }

  void want_shared(const Needs& needs) {
    const int64_t pairs = std::max<int64_t>(needs.top_k, 1) * max_rows;
    arena.want(shared.normed, max_rows * needs.input_cols);
    arena.want(shared.second, max_rows * needs.second_cols);
    want_quantized(shared.quantized[0], needs, pairs);
    want_quantized(shared.quantized[1], needs, max_rows);
    arena.want(shared.angles, max_rows * needs.angles);
    arena.want(shared.routing, max_rows * needs.experts);
    arena.want(shared.chosen, pairs);
    arena.want(shared.shares, pairs);
    arena.want(shared.slots, pairs);
    arena.want(shared.starts, needs.experts + 1);
    arena.want(shared.gathered, max_rows * needs.gathered);
    arena.want(shared.hidden, max_rows * needs.hidden);
    arena.want(shared.expert_out, max_rows * needs.expert_out);
    arena.want(shared.latents, max_rows * needs.latents);
    arena.want(positions, max_rows);
    arena.want(segment_of_row, max_rows);
  }

  void want_own(Own& o, const Needs& needs) {
    arena.want(o.normed, std::max(needs.input_cols, *std::max_element(widths.begin(), widths.end())));
    arena.want(o.second, needs.second_cols);
    want_quantized(o.quantized[0], needs, 1);
    want_quantized(o.quantized[1], needs, 1);
    arena.want(o.strip, kStripFloats);
    arena.want(o.decoded, needs.decoded);
    arena.want(o.keys, needs.head_dim * kPagePositions);
    arena.want(o.values, needs.head_dim * kPagePositions + 16);
    arena.want(o.states, kQueries * (2 + needs.head_dim));
  }
};

Program::Program(int64_t max_rows) : state_(std::make_unique<State>()) { state_->max_rows = max_rows; }
Program::~Program() = default;

int Program::buffer(int64_t width) {
  state_->widths.push_back(width);
  return static_cast<int>(state_->widths.size()) - 1;
}

void Program::add(Operation operation) { state_->operations.push_back(std::move(operation)); }

void Program::finish(int input, int result, int threads) {
  State& s = *state_;
  s.input = input;
  s.result = result;
  s.max_threads = threads;
  s.buffers.assign(s.widths.size(), nullptr);
  s.own.resize(static_cast<size_t>(threads));
  Needs needs;
  for (const Operation& operation : s.operations) std::visit(needs, operation);
  s.remembers = needs.remembers;
  for (size_t b = 0; b < s.widths.size(); ++b) {
    if (static_cast<int>(b) != result && static_cast<int>(b) != input) s.arena.want(s.buffers[b], s.max_rows * s.widths[b]);
  }
  s.want_shared(needs);
  for (Own& own : s.own) s.want_own(own, needs);
  s.arena.allocate();
}

void Program::run(Cache& cache, Cache* memory, const StepInput& input) {
  State& s = *state_;
  if (s.input >= 0) s.buffers[static_cast<size_t>(s.input)] = const_cast<float*>(input.numbers);  // no operation writes to it
  s.buffers[static_cast<size_t>(s.result)] = input.result;
  for (int64_t i = 0; i < input.segment_count; ++i) {
    const Segment& segment = input.segments[i];
    for (int64_t r = 0; r < segment.count; ++r) {
      s.positions[segment.first + r] = static_cast<int32_t>(cache.length(segment.sequence) + r);
      s.segment_of_row[segment.first + r] = i;
    }
  }
  const int threads = std::clamp(input.threads, 1, s.max_threads);
  s.barrier.reset(threads);
  const Kernels& kernels = active_kernels();
  const Step step{kernels, *kernels.vector, cache, memory, input, s.buffers, s.widths, s.positions, s.segment_of_row, s.shared, s.barrier, s.max_rows};
  struct Context {
    const Step& step;
    State& state;
  } context{step, s};
  threads::run_together(
      threads,
      [](void* opaque, int index, int count) {
        const Context& c = *static_cast<Context*>(opaque);
        Worker worker{c.step, c.state.own[static_cast<size_t>(index)], index, count, c.step.input.rows};
        for (const Operation& operation : c.state.operations) {
          if (worker.rows == 0) break;
          std::visit([&](const auto& op) { kbit::engine::run(worker, op); }, operation);
        }
      },
      &context);
  for (int64_t i = 0; i < input.segment_count; ++i) {
    const Segment& segment = input.segments[i];
    cache.advance(segment.sequence, segment.count);
    if (s.remembers) memory->advance(segment.memory, segment.count);
  }
}

int64_t Program::max_rows() const { return state_->max_rows; }
int Program::max_threads() const { return state_->max_threads; }
int64_t Program::workspace_bytes() const { return state_->arena.size(); }

}  // namespace kbit::engine
