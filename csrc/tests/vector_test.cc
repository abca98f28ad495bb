// The engine's vector operations of every instruction set that this processor runs against the plain ones, byte for byte, over odd sizes;
// and against double-precision arithmetic, within the bounds stated here. Every array ends at a page that may not be touched.
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "tests/tables.h"

namespace {

using kbit::VectorOps;
using kbit::test::alike;
using kbit::test::at;
using kbit::test::bytes_of;
using kbit::test::expect;
using kbit::test::Guarded;
using kbit::test::near;
namespace en = kbit::engine;

std::mt19937 rng(11);
constexpr int64_t kSizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 80, 100, 128, 257};

void normal(Guarded<float>& x, int64_t count, float spread = 1.0f) {
  std::normal_distribution<float> value(0.0f, spread);
  x.resize(count);
  for (float& v : x) v = value(rng);
}

void test_norms() {
  for (const int64_t n : kSizes) {
    for (const auto kind : {en::Norm::Kind::rms, en::Norm::Kind::layer}) {
      Guarded<float> x, w, b;
      normal(x, n), normal(w, n), normal(b, n);
      const en::Norm norm{kind, rng() % 4 == 0 ? nullptr : w.begin(), rng() % 2 == 0 ? nullptr : b.begin(), 1e-5f};
      double mean = 0, square = 0;
      for (const float v : x) mean += v / static_cast<double>(n);
      if (kind == en::Norm::Kind::rms) mean = 0;
      for (const float v : x) square += (v - mean) * (v - mean) / static_cast<double>(n);
      alike("norm", [&](const VectorOps& ops) {
        Guarded<float> out;
        out.resize(n);
        ops.norm(norm, x.begin(), n, out.begin());
        for (int64_t i = 0; i < n; ++i) {
          const double factor = norm.weight == nullptr ? 1 : w.begin()[i], shift = norm.bias == nullptr ? 0 : b.begin()[i];
          near("norm", out.begin()[i], (x.begin()[i] - mean) / std::sqrt(square + 1e-5) * factor + shift, 2e-5);
        }
        return bytes_of(out);
      });
    }
  }
}

double activated(en::Activation a, double x) {
  switch (a) {
    case en::Activation::relu: return x > 0 ? x : 0;
    case en::Activation::gelu: return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0)));
    case en::Activation::gelu_tanh: return x * 0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case en::Activation::quick_gelu: return x / (1 + std::exp(-1.702 * x));
    case en::Activation::silu: return x / (1 + std::exp(-x));
    case en::Activation::tanh: return std::tanh(x);
    default: return x;
  }
}

void test_epilogues() {
  for (const int64_t n : kSizes) {
    for (int a = 0; a <= static_cast<int>(en::Activation::tanh); ++a) {
      Guarded<float> x, y, bias_x, bias_y, out;
      normal(x, n, 4.0f), normal(y, n), normal(bias_x, n), normal(bias_y, n), normal(out, n);
      const bool gated = rng() % 2 == 0, biased = rng() % 2 == 0, added = rng() % 2 == 0;
      const float cap = rng() % 2 == 0 ? 0.0f : 3.0f;
      alike("epilogue", [&](const VectorOps& ops) {
        Guarded<float> result;
        result.resize(n);
        std::copy(out.begin(), out.end(), result.begin());
        ops.epilogue({x.begin(), biased ? bias_x.begin() : nullptr, gated ? y.begin() : nullptr, biased ? bias_y.begin() : nullptr, result.begin(), n,
                      static_cast<en::Activation>(a), 0.5f, cap, added});
        for (int64_t i = 0; i < n; ++i) {
          double want = activated(static_cast<en::Activation>(a), biased ? x.begin()[i] + bias_x.begin()[i] : x.begin()[i]);
          if (gated) want *= biased ? y.begin()[i] + bias_y.begin()[i] : y.begin()[i];
          if (cap != 0) want = 3 * std::tanh(want / 3);
          near("epilogue", result.begin()[i], want * 0.5 + (added ? out.begin()[i] : 0), 1e-5 * (1 + std::fabs(want)));
        }
        return bytes_of(result);
      });
    }
  }
}

void test_rotations() {
  for (const int64_t pairs : {1, 5, 8, 16, 20, 32, 64}) {
    for (const bool interleaved : {false, true}) {
      Guarded<float> head, cosines, sines;
      normal(head, 2 * pairs), normal(cosines, pairs), normal(sines, pairs);
      alike("rotate", [&](const VectorOps& ops) {
        Guarded<float> out;
        out.resize(2 * pairs);
        std::copy(head.begin(), head.end(), out.begin());
        ops.rotate(out.begin(), cosines.begin(), sines.begin(), pairs, interleaved);
        for (int64_t i = 0; i < pairs; ++i) {
          const int64_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + pairs;
          const double c = cosines.begin()[i], s = sines.begin()[i];
          near("rotate", out.begin()[a], head.begin()[a] * c - head.begin()[b] * s, 1e-5);
          near("rotate", out.begin()[b], head.begin()[b] * c + head.begin()[a] * s, 1e-5);
        }
        return bytes_of(out);
      });
    }
  }
}

void test_softmax_and_sums() {
  for (const int64_t n : kSizes) {
    Guarded<float> x, y;
    normal(x, n, 5.0f), normal(y, n);
    double total = 0;
    for (const float v : x) total += std::exp(static_cast<double>(v));
    alike("softmax", [&](const VectorOps& ops) {
      Guarded<float> out;
      out.resize(n);
      std::copy(x.begin(), x.end(), out.begin());
      ops.softmax(out.begin(), n);
      for (int64_t i = 0; i < n; ++i) near("softmax", out.begin()[i], std::exp(static_cast<double>(x.begin()[i])) / total, 1e-6);
      ops.add(y.begin(), 0.3f, n, out.begin());
      ops.scale(1.7f, n, out.begin());
      return bytes_of(out);
    });
    Guarded<float> turned;
    normal(turned, n);
    alike("hadamard", [&](const VectorOps& ops) {
      Guarded<float> out;
      out.resize(n);
      std::copy(turned.begin(), turned.end(), out.begin());
      ops.hadamard(out.begin(), n);
      std::vector<uint8_t> once = bytes_of(out);
      double before = 0, after = 0;
      for (int64_t i = 0; i < n; ++i) before += turned.begin()[i] * turned.begin()[i], after += out.begin()[i] * out.begin()[i];
      near("hadamard keeps lengths", after, before, 1e-4 * (1 + before));
      ops.hadamard(out.begin(), n);
      for (int64_t i = 0; i < n; ++i) near("hadamard twice", out.begin()[i], turned.begin()[i], 1e-5);
      return once;
    });
  }
}

// Q in double precision: signs by MurmurHash3's finalizer, then entries of H by the parity of common bits.
std::vector<double> rotated(const float* x, int64_t count, int64_t block) {
  std::vector<double> signed_x(at(count)), out(at(count));
  for (int64_t i = 0; i < count; ++i) {
    auto h = static_cast<uint32_t>(i);
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    signed_x[at(i)] = (h >> 31 != 0 ? -1.0 : 1.0) * static_cast<double>(x[i]);
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = i / block * block;
    for (int64_t j = 0; j < block; ++j) out[at(i)] += (__builtin_popcountll(static_cast<uint64_t>((i - begin) & j)) % 2 == 0 ? 1 : -1) * signed_x[at(begin + j)];
    out[at(i)] /= std::sqrt(static_cast<double>(block));
  }
  return out;
}

void test_input_rotations() {
  constexpr int64_t shapes[][2] = {{16, 16}, {48, 16}, {32, 32}, {64, 64}, {192, 64}, {128, 128}, {256, 256}, {768, 256}, {1024, 512}, {2048, 2048}};
  for (const auto& [count, block] : shapes) {
    Guarded<float> x;
    normal(x, count);
    const std::vector<double> want = rotated(x.begin(), count, block);
    alike("rotate_inputs", [&, count = count, block = block](const VectorOps& ops) {
      Guarded<float> out;
      out.resize(count);
      ops.rotate_inputs(x.begin(), count, block, out.begin());
      for (int64_t i = 0; i < count; ++i) near("rotate_inputs", out.begin()[i], want[at(i)], 5e-6);
      std::vector<uint8_t> bytes = bytes_of(out);
      Guarded<float> place;
      place.resize(count);
      std::copy(x.begin(), x.end(), place.begin());
      ops.rotate_inputs(place.begin(), count, block, place.begin());
      expect(bytes_of(place) == bytes, "rotate_inputs in place");
      ops.restore_inputs(place.begin(), count, block);
      for (int64_t i = 0; i < count; ++i) near("restore_inputs", place.begin()[i], x.begin()[i], 5e-6);
      const std::vector<uint8_t> back = bytes_of(place);
      bytes.insert(bytes.end(), back.begin(), back.end());
      return bytes;
    });
  }
}

uint16_t dense_bits(en::DenseType type, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (type == en::DenseType::bf16) return static_cast<uint16_t>(bits >> 16);
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 112;  // truncated; small numbers to zero
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | (exponent <= 0 ? 0 : static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ff)));
}

void test_dense() {
  for (const int64_t cols : kSizes) {
    for (const auto type : {en::DenseType::fp32, en::DenseType::fp16, en::DenseType::bf16}) {
      const int64_t rows = 1 + static_cast<int64_t>(rng() % 6), tokens = 1 + static_cast<int64_t>(rng() % 5), gap = static_cast<int64_t>(rng() % 3);
      Guarded<float> full, x;
      Guarded<uint16_t> half;
      normal(full, rows * cols), normal(x, tokens * cols + (tokens - 1) * gap);
      half.resize(rows * cols);
      for (int64_t i = 0; i < rows * cols; ++i) half.begin()[i] = dense_bits(type, full.begin()[i]);
      const bool narrow = type != en::DenseType::fp32;
      const en::Dense m{narrow ? static_cast<const void*>(half.begin()) : full.begin(), type, rows, cols};
      alike("dense", [&](const VectorOps& ops) {
        Guarded<float> y, row;
        y.resize(tokens * (rows - 1)), row.resize(cols);
        ops.dense(m, x.begin(), cols + gap, tokens, y.begin(), rows - 1, 1, rows);
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t r = 1; r < rows; ++r) {
            ops.dense_row(m, r, 1.0f, false, row.begin());
            double want = 0, size = 0;
            for (int64_t i = 0; i < cols; ++i) {
              const double product = static_cast<double>(row.begin()[i]) * x.begin()[t * (cols + gap) + i];
              want += product, size += std::fabs(product);
            }
            near("dense", y.begin()[t * (rows - 1) + r - 1], want, 1e-6 * (1 + size));
            if (!narrow) expect(std::memcmp(row.begin(), full.begin() + r * cols, static_cast<size_t>(cols) * 4) == 0, "dense row");
          }
        }
        return bytes_of(y);
      });
    }
  }
}

// Writes a page of positions, reads it back, and lets queries attend to it.
void test_pages(en::CacheFormat format, int64_t head_dim, double bound) {
  const int64_t used = 1 + static_cast<int64_t>(rng() % 32), count = 1 + static_cast<int64_t>(rng() % 9), page = en::kPagePositions;
  Guarded<float> keys, values, q, slopes, distances, biases;
  normal(keys, used * head_dim), normal(values, used * head_dim), normal(q, count * head_dim), normal(slopes, count), normal(distances, count);
  normal(biases, count * page);
  std::vector<int32_t> low(at(count)), high(at(count));
  for (size_t i = 0; i < at(count); ++i) {
    high[i] = static_cast<int32_t>(1 + static_cast<int64_t>(rng()) % used);
    low[i] = static_cast<int32_t>(static_cast<int64_t>(rng()) % high[i]);
  }
  const bool alibi = rng() % 2 == 0, biased = rng() % 2 == 0;
  const float cap = rng() % 2 == 0 ? 0.0f : 2.0f;
  alike("pages", [&](const VectorOps& ops) {
    Guarded<uint8_t> block;
    block.resize(kbit::cache_block_bytes(format, head_dim));
    std::fill(block.begin(), block.end(), uint8_t{0});
    for (int64_t j = 0; j < used; ++j) {
      ops.store_position(format, block.begin(), head_dim, j, keys.begin() + j * head_dim, values.begin() + j * head_dim);
    }
    Guarded<float> k, v, states;
    k.resize(head_dim * page), v.resize(head_dim * page), states.resize(count * (2 + head_dim));
    if (format == en::CacheFormat::fp32) std::memcpy(k.begin(), block.begin(), at(head_dim * page * 4));
    if (format == en::CacheFormat::fp32) std::memcpy(v.begin(), block.begin() + head_dim * page * 4, at(head_dim * page * 4));
    ops.expand(format, block.begin(), head_dim, used, k.begin(), v.begin());
    for (int64_t j = 0; j < used; ++j) {
      for (int64_t d = 0; d < head_dim; ++d) {
        near("key", k.begin()[d * page + j], keys.begin()[j * head_dim + d], bound);
        near("value", v.begin()[j * head_dim + d], values.begin()[j * head_dim + d], bound);
      }
    }
    std::vector<const float*> queries, bias;
    std::vector<float*> state;
    for (int64_t i = 0; i < count; ++i) {
      queries.push_back(q.begin() + i * head_dim);
      bias.push_back(biases.begin() + i * page);
      state.push_back(states.begin() + i * (2 + head_dim));
      std::fill(state.back(), state.back() + 2 + head_dim, 0.0f);
      state.back()[0] = -std::numeric_limits<float>::infinity();
    }
    ops.attend({queries.data(), state.data(), low.data(), high.data(), alibi ? slopes.begin() : nullptr, distances.begin(),
                biased ? bias.data() : nullptr, count, head_dim, used, 0.25f, cap},
               k.begin(), v.begin());
    for (int64_t i = 0; i < count; ++i) {
      std::vector<double> weight(at(used), 0.0), out(at(head_dim), 0.0);
      double total = 0;
      for (int64_t j = low[at(i)]; j < high[at(i)]; ++j) {
        double score = 0;
        for (int64_t d = 0; d < head_dim; ++d) score += static_cast<double>(queries[at(i)][d]) * k.begin()[d * page + j];
        score *= 0.25;
        if (cap != 0) score = cap * std::tanh(score / cap);
        if (alibi) score += (static_cast<double>(j) + distances.begin()[i]) * slopes.begin()[i];
        if (biased) score += bias[at(i)][j];
        weight[at(j)] = std::exp(score);
        total += weight[at(j)];
      }
      for (int64_t d = 0; d < head_dim; ++d) {
        double want = 0;
        for (int64_t j = 0; j < used; ++j) want += weight[at(j)] / total * v.begin()[j * head_dim + d];
        near("attention", state[at(i)][2 + d] / state[at(i)][1], want, 1e-4);
      }
    }
    return bytes_of(states);
  });
}

void test_attention() {
  for (const int64_t head_dim : {2, 6, 10, 16, 20, 32, 48, 64, 80, 128}) {
    for (int round = 0; round < 6; ++round) {
      test_pages(en::CacheFormat::fp32, head_dim, 0);
      test_pages(en::CacheFormat::fp16, head_dim, 0.003);
      test_pages(en::CacheFormat::int8, head_dim, 0.025);
      test_pages(en::CacheFormat::int4, head_dim, 0.35);
      test_pages(en::CacheFormat::int3, head_dim, 0.7);
    }
  }
}

}  // namespace

int main() {
  kbit::test::print_tables();
  test_norms();
  test_epilogues();
  test_rotations();
  test_softmax_and_sums();
  test_input_rotations();
  test_dense();
  test_attention();
  return kbit::test::close();
}
