// Cache and Program for Python. kbit.engine.program and kbit.engine.engine check everything before it comes here.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <deque>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "bind.h"
#include "kbit/engine.h"
#include "packed_matrix.h"

namespace kbit {
namespace {

namespace en = kbit::engine;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Raw = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NormArgs = std::tuple<int, std::optional<int>, std::optional<int>, float>;  // kind, weight, bias, eps
using HeadsArgs = std::tuple<int, int64_t, int64_t>;
using RelativeArgs = std::tuple<std::optional<int>, int64_t, int64_t>;  // table, last, reach
using PartArgs = std::tuple<int, int64_t, int64_t, std::optional<int>, int64_t>;  // weight, begin, end, bias, at

// A program with what it points into: weights and vectors by number, in the order they were given.
class BoundProgram {
 public:
  explicit BoundProgram(int64_t max_rows) : program_(max_rows) {}

  int packed(nb::object matrix) {
    const PackedMatrix& held = nb::cast<const PackedMatrix&>(matrix);
    owners_.push_back(matrix);
    weights_.push_back({&held.matrix, nullptr});
    return static_cast<int>(weights_.size()) - 1;
  }

  int dense(Raw bytes, int type, int64_t rows, int64_t cols) {
    if (static_cast<int64_t>(bytes.shape(0)) != rows * cols * (type == 0 ? 4 : 2)) throw std::invalid_argument("dense matrix: bytes do not fit the shape");
    raws_.push_back(bytes);
    denses_.push_back({bytes.data(), static_cast<en::DenseType>(type), rows, cols});
    weights_.push_back({nullptr, &denses_.back()});
    return static_cast<int>(weights_.size()) - 1;
  }

  int vector(Vector values) {
    vectors_.push_back(values);
    return static_cast<int>(vectors_.size()) - 1;
  }

  int buffer(int64_t width) { return program_.buffer(width); }

  void embed(int table, int out, int source, float scale, int64_t offset, bool accumulate) {
    program_.add(en::Embed{weight(table), out, static_cast<en::Source>(source), scale, offset, accumulate});
  }

  void begin(int table, int out) { program_.add(en::Begin{weight(table), out}); }

  void normalize(int source, int out, const NormArgs& norm, bool accumulate) {
    program_.add(en::Normalize{source, out, norm_of(norm), accumulate});
  }

  void linear(int source, const NormArgs& norm, const std::vector<PartArgs>& parts, int out, int activation, bool gated, bool accumulate, float scale,
              float softcap) {
    en::Linear op{source, norm_of(norm), {}, out, static_cast<en::Activation>(activation), gated, accumulate, scale, softcap};
    for (const auto& [number, begin, end, bias, at] : parts) op.parts.push_back({weight(number), begin, end, values(bias), at});
    program_.add(std::move(op));
  }

  void attention(int64_t layer, const HeadsArgs& q, const HeadsArgs& k, const HeadsArgs& v, int out, int64_t heads, int64_t kv_heads, int64_t head_dim,
                 float scale, float softcap, bool causal, std::optional<int> frequencies, bool interleaved, float factor, const NormArgs& q_norm,
                 const NormArgs& k_norm, int64_t window, std::optional<int> slopes, const RelativeArgs& relative) {
    const int64_t pairs = frequencies ? static_cast<int64_t>(vectors_.at(static_cast<size_t>(*frequencies)).shape(0)) : 0;
    program_.add(en::Attention{layer, heads_of(q), heads_of(k), heads_of(v), out, heads, kv_heads, head_dim, scale, softcap, causal,
                               {values(frequencies), pairs, interleaved, factor}, norm_of(q_norm), norm_of(k_norm), window, values(slopes),
                               {values(std::get<0>(relative)), std::get<1>(relative), std::get<2>(relative)}});
  }

  void remember(int64_t layer, const HeadsArgs& k, const HeadsArgs& v, int64_t kv_heads, int64_t head_dim) {
    program_.add(en::Remember{layer, heads_of(k), heads_of(v), kv_heads, head_dim});
  }

  void cross_attention(int64_t layer, const HeadsArgs& q, int out, int64_t heads, int64_t kv_heads, int64_t head_dim, float scale) {
    program_.add(en::CrossAttention{layer, heads_of(q), out, heads, kv_heads, head_dim, scale});
  }

  void experts(int source, int out, const NormArgs& norm, int router, const std::vector<int>& gate_up, const std::vector<int>& down, int64_t top_k,
               bool normalize, bool accumulate, int activation) {
    en::Experts op{source, out, norm_of(norm), weight(router), {}, {}, top_k, normalize, accumulate, static_cast<en::Activation>(activation)};
    for (const int number : gate_up) op.gate_up.push_back(weight(number));
    for (const int number : down) op.down.push_back(weight(number));
    program_.add(std::move(op));
  }

  void select(int source, int out) { program_.add(en::Select{source, out}); }

  void finish(int input, int result, int threads) { program_.finish(input, result, threads); }
  int64_t workspace_bytes() const { return program_.workspace_bytes(); }

  // Addresses of int32 tokens [rows] or fp32 rows of the input, int64 segments [segments, 4] (sequence, first row, rows, memory), int64 wanted
  // rows, fp32 results.
  void run(en::Cache& cache, en::Cache* memory, uintptr_t tokens, uintptr_t numbers, int64_t rows, uintptr_t segments, int64_t segment_count, uintptr_t wanted, int64_t wanted_count,
           uintptr_t result, bool exact, int threads) {
    program_.run(cache, memory, {reinterpret_cast<const int32_t*>(tokens), reinterpret_cast<const float*>(numbers), rows, reinterpret_cast<const en::Segment*>(segments), segment_count,
                         reinterpret_cast<const int64_t*>(wanted), wanted_count, reinterpret_cast<float*>(result), exact, threads});
  }

 private:
  const en::Weight& weight(int number) const { return weights_.at(static_cast<size_t>(number)); }
  const float* values(std::optional<int> number) const { return number ? vectors_.at(static_cast<size_t>(*number)).data() : nullptr; }
  en::Norm norm_of(const NormArgs& norm) const {
    return {static_cast<en::Norm::Kind>(std::get<0>(norm)), values(std::get<1>(norm)), values(std::get<2>(norm)), std::get<3>(norm)};
  }
  static en::Heads heads_of(const HeadsArgs& heads) { return {std::get<0>(heads), std::get<1>(heads), std::get<2>(heads)}; }

  en::Program program_;
  std::vector<nb::object> owners_;
  std::vector<Raw> raws_;
  std::deque<en::Dense> denses_;  // never moved
  std::vector<en::Weight> weights_;
  std::vector<Vector> vectors_;
};

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<en::Cache>(m, "Cache")
      .def(
          "__init__",
          [](en::Cache* self, int64_t layers, int64_t kv_heads, int64_t head_dim, int format, int64_t pages) {
            new (self) en::Cache(layers, kv_heads, head_dim, static_cast<en::CacheFormat>(format), pages);
          },
          nb::arg("layers"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("cache_format"), nb::arg("pages"))
      .def("create", &en::Cache::create)
      .def("alive", &en::Cache::alive, nb::arg("sequence"))
      .def("length", &en::Cache::length, nb::arg("sequence"))
      .def("fork", &en::Cache::fork, nb::arg("sequence"), nb::arg("length"))
      .def("truncate", &en::Cache::truncate, nb::arg("sequence"), nb::arg("length"))
      .def("release", &en::Cache::release, nb::arg("sequence"))
      .def("reserve", &en::Cache::reserve, nb::arg("sequence"), nb::arg("count"))
      .def("free_pages", &en::Cache::free_pages)
      .def("page_bytes", &en::Cache::page_bytes);
  nb::class_<BoundProgram>(m, "Program")
      .def(nb::init<int64_t>(), nb::arg("max_rows"))
      .def("packed", &BoundProgram::packed, nb::arg("matrix"))
      .def("dense", &BoundProgram::dense, nb::arg("data"), nb::arg("dense_type"), nb::arg("rows"), nb::arg("cols"))
      .def("vector", &BoundProgram::vector, nb::arg("values"))
      .def("buffer", &BoundProgram::buffer, nb::arg("width"))
      .def("embed", &BoundProgram::embed, nb::arg("table"), nb::arg("out"), nb::arg("source"), nb::arg("scale"), nb::arg("offset"), nb::arg("accumulate"))
      .def("begin", &BoundProgram::begin, nb::arg("table"), nb::arg("out"))
      .def("normalize", &BoundProgram::normalize, nb::arg("source"), nb::arg("out"), nb::arg("norm"), nb::arg("accumulate"))
      .def("linear", &BoundProgram::linear, nb::arg("source"), nb::arg("norm"), nb::arg("parts"), nb::arg("out"), nb::arg("activation"),
           nb::arg("gated"), nb::arg("accumulate"), nb::arg("scale"), nb::arg("softcap"))
      .def("attention", &BoundProgram::attention, nb::arg("layer"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"), nb::arg("heads"),
           nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("scale"), nb::arg("softcap"), nb::arg("causal"), nb::arg("frequencies").none(),
           nb::arg("interleaved"), nb::arg("factor"), nb::arg("q_norm"), nb::arg("k_norm"), nb::arg("window"), nb::arg("slopes").none(), nb::arg("relative"))
      .def("remember", &BoundProgram::remember, nb::arg("layer"), nb::arg("k"), nb::arg("v"), nb::arg("kv_heads"), nb::arg("head_dim"))
      .def("cross_attention", &BoundProgram::cross_attention, nb::arg("layer"), nb::arg("q"), nb::arg("out"), nb::arg("heads"), nb::arg("kv_heads"),
           nb::arg("head_dim"), nb::arg("scale"))
      .def("experts", &BoundProgram::experts, nb::arg("source"), nb::arg("out"), nb::arg("norm"), nb::arg("router"), nb::arg("gate_up"), nb::arg("down"),
           nb::arg("top_k"), nb::arg("normalize"), nb::arg("accumulate"), nb::arg("activation"))
      .def("select", &BoundProgram::select, nb::arg("source"), nb::arg("out"))
      .def("finish", &BoundProgram::finish, nb::arg("source"), nb::arg("result"), nb::arg("threads"))
      .def("workspace_bytes", &BoundProgram::workspace_bytes)
      .def("run", &BoundProgram::run, nb::arg("cache"), nb::arg("memory").none(), nb::arg("tokens"), nb::arg("numbers"), nb::arg("rows"), nb::arg("segments"), nb::arg("segment_count"),
           nb::arg("wanted"), nb::arg("wanted_count"), nb::arg("result"), nb::arg("exact"), nb::arg("threads"), nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace kbit
