// `Decoder` and what draws tokens from its logits, for Python; see decoder.h and sampling.h.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "decoder.h"
#include "sampling.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tailorbird {
namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Tokens = nb::ndarray<const int64_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Logits = nb::ndarray<float, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Written = nb::ndarray<float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Indices = nb::ndarray<const int32_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Projections = std::vector<const Linear*>;

Numbers numbers(const std::optional<Vector>& array) {
  return array ? Numbers(array->data(), array->data() + array->size()) : Numbers();
}

std::vector<Linear> copied(const Projections& projections) {
  std::vector<Linear> found;
  for (const Linear* one : projections) found.push_back(*one);
  return found;
}

Gate gate_of(const std::string& name) {
  if (name == "silu") return Gate::silu;
  if (name == "gelu_tanh") return Gate::gelu_tanh;
  throw std::invalid_argument("no such gate: " + name);
}

void make_linear(Linear* self, std::shared_ptr<Matrix> matrix, std::optional<Vector> bias) {
  new (self) Linear{std::move(matrix), numbers(bias)};
}

void make_table(Table* self, const Projections& parts, const std::vector<Indices>& rows) {
  std::vector<std::vector<int32_t>> places;
  for (const Indices& one : rows) places.emplace_back(one.data(), one.data() + one.size());
  new (self) Table(copied(parts), std::move(places));
}

void make_rope(Rope* self, Vector frequency, float scaling) { new (self) Rope{numbers(frequency), scaling}; }

void make_layer(Layer* self, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale,
                float soft_cap, int64_t rope, const std::string& gate, Vector before_attention,
                std::optional<Vector> after_attention, Vector before_mlp, std::optional<Vector> after_mlp,
                std::optional<Vector> query_norm, std::optional<Vector> key_norm, const Projections& qkv,
                const Linear& output, const Projections& gate_up, const Linear& down) {
  new (self) Layer{heads, kv_heads, head_dim, window, scale, soft_cap, rope, gate_of(gate), numbers(before_attention),
                   numbers(after_attention), numbers(before_mlp), numbers(after_mlp), numbers(query_norm),
                   numbers(key_norm), copied(qkv), output, copied(gate_up), down};
}

void make_decoder(Decoder* self, float epsilon, float embedding_scale, float logit_cap,
                  const std::vector<const Layer*>& layers, const std::vector<const Rope*>& ropes,
                  const Table& embedding, Vector norm, const Table& head) {
  std::vector<Layer> all;
  for (const Layer* layer : layers) all.push_back(*layer);
  std::vector<Rope> tables;
  for (const Rope* rope : ropes) tables.push_back(*rope);
  const Shape shape{static_cast<int64_t>(embedding.cols()), static_cast<int64_t>(embedding.rows()), epsilon,
                    embedding_scale, logit_cap};
  new (self) Decoder(shape, std::move(all), std::move(tables), embedding, numbers(norm), head);
}

void make_cache(Cache* self, const Decoder& decoder, int64_t capacity, bool int8) {
  new (self) Cache(decoder.layers(), capacity, int8);
}

void forward(Decoder& decoder, Tokens tokens, int64_t start, Cache& cache, Logits logits, const std::string& mode) {
  const size_t n = tokens.shape(0), keep = logits.shape(0);
  const Activations activations = mode_of(mode);
  if (!cache.fits(decoder.layers())) throw std::invalid_argument("the cache belongs to another decoder");
  if (n < 1 || start < 0 || start > cache.capacity() || n > static_cast<size_t>(cache.capacity() - start))
    throw std::invalid_argument("the tokens don't fit into the cache");
  if (keep > n || (keep && logits.shape(1) != static_cast<size_t>(decoder.shape().vocabulary)))
    throw std::invalid_argument("the logits are of the wrong shape");
  for (size_t i = 0; i < n; ++i)
    if (tokens.data()[i] < 0 || tokens.data()[i] >= decoder.shape().vocabulary)
      throw std::out_of_range("token " + std::to_string(tokens.data()[i]) + " is not in the vocabulary");
  nb::gil_scoped_release free;
  decoder.forward(tokens.data(), n, start, cache, keep, logits.data(), activations);
}

Choice choice(const Vector& logits, float temperature) {
  if (logits.size() == 0 || !(temperature > 0)) throw std::invalid_argument("there is nothing to weigh");
  return {logits.data(), logits.size(), temperature};
}

float weigh_python(Vector logits, float temperature, Written sums, Written tops) {
  const Choice asked = choice(logits, temperature);
  if (sums.size() != asked.stretches() || tops.size() != asked.stretches())
    throw std::invalid_argument("sums and tops don't fit the logits");
  nb::gil_scoped_release free;
  return weigh(asked, sums.data(), tops.data());
}

size_t draw_python(Vector logits, float temperature, double uniform) {
  const Choice asked = choice(logits, temperature);
  if (!(uniform >= 0 && uniform < 1)) throw std::invalid_argument("chance is a number from 0 up to 1");
  nb::gil_scoped_release free;
  return draw(asked, uniform);
}

void weights_python(Vector logits, float temperature, float highest, Tokens stretches, Logits weights) {
  const Choice asked = choice(logits, temperature);
  if (weights.shape(0) != stretches.size() || weights.shape(1) != kStretch)
    throw std::invalid_argument("the weights don't fit the stretches");
  for (size_t i = 0; i < stretches.size(); ++i)
    if (stretches.data()[i] < 0 || static_cast<size_t>(stretches.data()[i]) >= asked.stretches())
      throw std::invalid_argument("there is no such stretch");
  nb::gil_scoped_release free;
  weights_of(asked, highest, stretches.data(), stretches.size(), weights.data());
}

}  // namespace

void bind_decoder(nb::module_& m) {
  nb::class_<Linear>(m, "Linear").def("__init__", &make_linear, "matrix"_a, "bias"_a.none());
  nb::class_<Table>(m, "Table").def("__init__", &make_table, "parts"_a, "rows"_a);
  nb::class_<Rope>(m, "Rope").def("__init__", &make_rope, "frequency"_a, "scaling"_a);
  nb::class_<Layer>(m, "Layer")
      .def("__init__", &make_layer, nb::kw_only(), "heads"_a, "kv_heads"_a, "head_dim"_a, "window"_a, "scale"_a,
           "soft_cap"_a, "rope"_a, "gate"_a, "before_attention"_a, "after_attention"_a.none(), "before_mlp"_a,
           "after_mlp"_a.none(), "query_norm"_a.none(), "key_norm"_a.none(), "qkv"_a, "output"_a, "gate_up"_a,
           "down"_a);
  nb::class_<Cache>(m, "Cache")
      .def("__init__", &make_cache, "decoder"_a, "capacity"_a, "int8"_a)
      .def_prop_ro("capacity", &Cache::capacity)
      .def_prop_ro("nbytes", &Cache::nbytes);
  nb::class_<Decoder>(m, "Decoder")
      .def("__init__", &make_decoder, nb::kw_only(), "epsilon"_a, "embedding_scale"_a, "logit_cap"_a, "layers"_a,
           "ropes"_a, "embedding"_a, "norm"_a, "head"_a)
      .def_prop_ro("product_seconds", &Decoder::product_seconds)
      .def("forward", &forward, "tokens"_a, "start"_a, "cache"_a, "logits"_a, "activations"_a);
  m.attr("STRETCH") = kStretch;
  m.def("weigh", &weigh_python, "logits"_a.noconvert(), "temperature"_a, "sums"_a.noconvert(), "tops"_a.noconvert());
  m.def("draw", &draw_python, "logits"_a.noconvert(), "temperature"_a, "uniform"_a);
  m.def("weights_of", &weights_python, "logits"_a.noconvert(), "temperature"_a, "highest"_a, "stretches"_a.noconvert(),
        "weights"_a.noconvert());
}

}  // namespace tailorbird
