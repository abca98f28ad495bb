// The way of a tile: ranges of its groups → absmax scales → stored scales (searched, where asked) → codes → planes.
// Tiles are independent of each other, so any split over threads or over calls gives the same bytes.
#include "kbit/encode.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "grid.h"
#include "guarded_for.h"
#include "scale.h"
#include "search.h"
#include "span.h"
#include "tile_codes.h"

namespace kbit {
namespace {

using namespace encode_detail;

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
// A scale that rounds up must not carry its largest level beyond fp32.
constexpr double kMostDecoded = double{std::numeric_limits<float>::max()} * (1.0 - 0x1p-10);

struct Geometry {
  int64_t rows, cols, group_size;
  int64_t tiles = ceil_div(rows, kTileRows);
  int64_t kblocks = ceil_div(cols, kBlockInputs);
  int64_t groups = ceil_div(cols, group_size);
  int64_t width(int64_t group) const { return std::min(group_size, cols - group * group_size); }
  size_t longest() const { return static_cast<size_t>(padded(group_size)); }
  int64_t tile_rows(int64_t tile) const { return std::min<int64_t>(kTileRows, rows - tile * kTileRows); }
};

bool valid(const Weights& weights, int64_t group_size) {
  return weights.rows >= 1 && weights.cols >= 1 && group_size >= 1 && group_size <= weights.cols;
}

struct Range {
  float low, high;  // 0 included
};

int64_t first_non_finite(const float* span, int64_t count) {
  return std::find_if(span, span + count, [](float w) { return !std::isfinite(w); }) - span;
}

// Ranges of the tile's groups, [rows][groups]; returns the flat index of the first NaN or Inf, or kNone.
int64_t tile_ranges(const Weights& weights, const Geometry& shape, int64_t tile, float* span, std::vector<Range>& ranges) {
  for (int64_t r = 0; r < shape.tile_rows(tile); ++r)
    for (int64_t group = 0; group < shape.groups; ++group) {
      const int64_t row = tile * kTileRows + r, col = group * shape.group_size, count = shape.width(group);
      Range& range = ranges[static_cast<size_t>(r * shape.groups + group)];
      load_span(weights, row, col, count, span);
      if (!span_range(span, count, &range.low, &range.high)) return row * shape.cols + col + first_non_finite(span, count);
    }
  return kNone;
}

double spread(const Range& range, bool zero_points) {
  const double low = range.low, high = range.high;
  return zero_points ? high - low : std::max(high, -low);
}

class TileEncoder {
 public:
  TileEncoder(const EncodeTask& task, const Geometry& shape, const Grid& grid)
      : task_(task), shape_(shape), grid_(grid), negate_(!task.zero_points && !grid.antisymmetric()),
        ranges_(static_cast<size_t>(kTileRows * shape.groups)), span_(shape.longest()), scratch_(shape.longest()),
        codes_(static_cast<size_t>(kTileRows * shape.kblocks * kBlockInputs)) {
    if (task.search == ScaleSearch::absmax) return;
    values_.resize(shape.longest());
    importance_.resize(shape.longest());
    weighted_.resize(shape.longest());
  }

  int64_t encode(int64_t tile) {
    const int64_t bad = tile_ranges(task_.weights, shape_, tile, span_.data(), ranges_);
    if (bad != kNone) return bad;
    const ScaleCodec codec(task_.scale_kind, super_scale(tile));
    for (int64_t r = 0; r < kTileRows; ++r)
      for (int64_t group = 0; group < shape_.groups; ++group) {
        if (r < shape_.tile_rows(tile))
          encode_group(codec, tile, r, group);
        else
          store(tile, r, group, {});
      }
    clear_padding(tile);
    pack_tile(codes_.data(), task_.bits, shape_.tiles, shape_.kblocks, tile, task_.planes);
    return kNone;
  }

 private:
  float absmax_scale(const Range& range) const {
    if (task_.anchor == 0.0f) return 0.0f;
    if (task_.zero_points) {
      const double steps = task_.n_levels - 1;
      return static_cast<float>(std::min(spread(range, true) / steps, double{std::numeric_limits<float>::max()}));
    }
    const float extreme = range.high >= -range.low ? range.high : range.low;
    return task_.mirrored ? std::fabs(extreme) / std::fabs(task_.anchor) : extreme / task_.anchor;
  }

  // e4m3's is given; dq8 takes its own from the tile's absmax scales, so that the largest maps to 127.
  float super_scale(int64_t tile) {
    if (task_.scale_kind != ScaleKind::dq8) return task_.matrix_super_scale;
    float largest = 0.0f;
    for (int64_t i = 0; i < shape_.tile_rows(tile) * shape_.groups; ++i)
      largest = std::max(largest, std::fabs(absmax_scale(ranges_[static_cast<size_t>(i)])));
    const double most = kMostDecoded / (double{kLargestInt8} * std::fabs(double{task_.anchor}));
    return task_.tile_super_scale[tile] = static_cast<float>(std::min(double{largest} / double{kLargestInt8}, most));
  }

  GroupScale absmax_choice(const ScaleCodec& codec, float absmax, const Range& range) const {
    GroupScale choice{codec.round(absmax), 0};
    if (task_.zero_points && choice.scale.value != 0.0f) {
      const double steps = -static_cast<double>(range.low) / static_cast<double>(choice.scale.value);
      choice.zero_point = static_cast<int>(std::nearbyint(std::clamp(steps, 0.0, static_cast<double>(task_.n_levels - 1))));
    }
    return choice;
  }

  void encode_group(const ScaleCodec& codec, int64_t tile, int64_t r, int64_t group) {
    const int64_t row = tile * kTileRows + r, col = group * shape_.group_size, count = shape_.width(group);
    const Range& range = ranges_[static_cast<size_t>(r * shape_.groups + group)];
    load_span(task_.weights, row, col, count, span_.data());
    const float absmax = absmax_scale(range);
    GroupScale choice = absmax_choice(codec, absmax, range);
    if (task_.search == ScaleSearch::mse) choice = searched(codec, row, col, count, absmax, choice);
    store(tile, r, group, choice);
    divide_span(span_.data(), count, choice.scale.value, static_cast<float>(choice.zero_point), scratch_.data());
    // Only a row's last group is ragged, and a row of codes is padded further than a span: nothing else is overwritten.
    grid_.codes(scratch_.data(), padded(count), codes_.data() + r * shape_.kblocks * kBlockInputs + col);
  }

  GroupScale searched(const ScaleCodec& codec, int64_t row, int64_t col, int64_t count, float absmax, GroupScale start) {
    const float* given = task_.importance == nullptr ? nullptr : task_.importance + row * task_.importance_stride + col;
    for (int64_t i = 0; i < padded(count); ++i) {
      const auto at = static_cast<size_t>(i);
      importance_[at] = i >= count ? 0.0 : given == nullptr ? 1.0 : static_cast<double>(given[i]);
      weighted_[at] = importance_[at] * static_cast<double>(span_[at]);
    }
    const GroupView view{span_.data(), importance_.data(), weighted_.data(), padded(count), scratch_.data(), values_.data()};
    return search_scale(view, {grid_, codec, negate_, task_.zero_points ? task_.n_levels - 1 : 0}, absmax, start);
  }

  void store(int64_t tile, int64_t r, int64_t group, const GroupScale& choice) const {
    const int64_t at = (tile * shape_.groups + group) * kTileRows + r;
    if (task_.scale_kind == ScaleKind::fp16)
      static_cast<uint16_t*>(task_.scale)[at] = choice.scale.bits;
    else
      static_cast<uint8_t*>(task_.scale)[at] = static_cast<uint8_t>(choice.scale.bits);
    if (task_.zero_point != nullptr) task_.zero_point[at] = static_cast<uint8_t>(choice.zero_point);
  }

  void clear_padding(int64_t tile) {
    const int64_t width = shape_.kblocks * kBlockInputs;
    for (int64_t r = 0; r < kTileRows; ++r) {
      const int64_t used = r < shape_.tile_rows(tile) ? shape_.cols : 0;
      std::fill(codes_.data() + r * width + used, codes_.data() + (r + 1) * width, uint8_t{0});
    }
  }

  const EncodeTask& task_;
  const Geometry& shape_;
  const Grid& grid_;
  const bool negate_;
  std::vector<Range> ranges_;
  std::vector<float> span_, scratch_, values_;
  std::vector<double> importance_, weighted_;
  std::vector<uint8_t> codes_;
};

// Runs body(begin, end) → first bad index over tiles; every worker stops at its own first, the least of all is reported.
template <class Body>
Status over_tiles(int64_t tiles, int threads, int64_t* first_bad, Body&& body) {
  std::mutex mutex;
  *first_bad = kNone;
  guarded_for(tiles, threads, [&](int64_t begin, int64_t end) {
    const int64_t bad = body(begin, end, mutex);
    std::lock_guard<std::mutex> lock(mutex);
    *first_bad = std::min(*first_bad, bad);
  });
  return *first_bad == kNone ? Status::ok : Status::not_finite;
}

}  // namespace

Status scan(const Weights& weights, int64_t group_size, bool zero_points, int threads, double* result, int64_t* first_bad) {
  if (!valid(weights, group_size)) return Status::invalid_argument;
  const Geometry shape{weights.rows, weights.cols, group_size};
  *result = 0.0;
  return over_tiles(shape.tiles, threads, first_bad, [&](int64_t begin, int64_t end, std::mutex& mutex) {
    std::vector<float> span(shape.longest());
    std::vector<Range> ranges(static_cast<size_t>(kTileRows * shape.groups));
    double largest = 0.0;
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t bad = tile_ranges(weights, shape, tile, span.data(), ranges);
      if (bad != kNone) return bad;
      const auto used = static_cast<size_t>(shape.tile_rows(tile) * shape.groups);
      for (size_t i = 0; i < used; ++i) largest = std::max(largest, spread(ranges[i], zero_points));
    }
    std::lock_guard<std::mutex> lock(mutex);
    *result = std::max(*result, largest);
    return kNone;
  });
}

Status encode(const EncodeTask& task, int threads, int64_t* first_bad) {
  if (!valid(task.weights, task.group_size)) return Status::invalid_argument;
  const Geometry shape{task.weights.rows, task.weights.cols, task.group_size};
  const Grid grid(task.levels, task.n_levels);
  return over_tiles(shape.tiles, threads, first_bad, [&](int64_t begin, int64_t end, std::mutex&) {
    TileEncoder encoder(task, shape, grid);
    for (int64_t tile = begin; tile < end; ++tile)
      if (const int64_t bad = encoder.encode(tile); bad != kNone) return bad;
    return kNone;
  });
}

}  // namespace kbit
