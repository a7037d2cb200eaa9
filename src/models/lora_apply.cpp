#include <algorithm>
#include <cmath>
#include <limits>

#include "base/file.h"
#include "models/lora.h"
#include "models/low_rank.h"

namespace sinter {
namespace {

constexpr int64_t kRowsAtOnce = 16;  // of one thread

Tensor as_f32(const Tensor& t) { return t.to(DType::f32); }

/// a . b; with a core t [i, j, k, l]: sum over i, j of a[i, row] t[i, j, k, l] b[j, column] as [row, column k l].
Tensor product(const Tensor& a, const Tensor& b, const Tensor& t, ThreadPool& pool) {
  Tensor left = as_f32(a), right = as_f32(b);
  if (t.empty()) {
    Tensor out(DType::f32, {left.dim(0), right.dim(1)});
    add_product(out.f32().data(), left.f32().data(), right.f32().data(), left.dim(0), left.dim(1), right.dim(1), 1, pool);
    return out;
  }
  Tensor core = as_f32(t);
  const int64_t I = core.dim(0), J = core.dim(1), window = core.dim(2) * core.dim(3), rows = left.dim(1), columns = right.dim(1);
  // First over j: [i, column, window], then over i as a plain product with the transpose of a.
  Tensor inner(DType::f32, {I, columns * window});
  for (int64_t i = 0; i < I; ++i)
    for (int64_t j = 0; j < J; ++j)
      for (int64_t c = 0; c < columns; ++c)
        for (int64_t w = 0; w < window; ++w)
          inner.f32()[size_t((i * columns + c) * window + w)] +=
              core.f32()[size_t((i * J + j) * window + w)] * right.f32()[size_t(j * columns + c)];
  Tensor turned(DType::f32, {rows, I});
  for (int64_t i = 0; i < I; ++i)
    for (int64_t r = 0; r < rows; ++r) turned.f32()[size_t(r * I + i)] = left.f32()[size_t(i * rows + r)];
  Tensor out(DType::f32, {rows, columns * window});
  add_product(out.f32().data(), turned.f32().data(), inner.f32().data(), rows, I, columns * window, 1, pool);
  return out;
}

/// down [i, column] and mid [o, i, window] as one convolution [o, column, window].
Tensor joined(const Tensor& down, const Tensor& mid) {
  Tensor d = as_f32(down), m = as_f32(mid);
  const int64_t I = m.dim(1), window = m.dim(2) * m.dim(3), columns = d.count() / I;
  Tensor out(DType::f32, {m.dim(0), columns * window});
  for (int64_t o = 0; o < m.dim(0); ++o)
    for (int64_t i = 0; i < I; ++i)
      for (int64_t c = 0; c < columns; ++c)
        for (int64_t w = 0; w < window; ++w)
          out.f32()[size_t((o * columns + c) * window + w)] +=
              d.f32()[size_t(i * columns + c)] * m.f32()[size_t((o * I + i) * window + w)];
  return out;
}

/// Rows of a weight that a patch changes.
struct Target {
  float* values;
  int64_t rows, columns;
  int64_t window;  ///< elements of a row for each input channel: 9 for a 3x3 convolution
  ThreadPool& pool;
  int64_t count() const { return rows * columns; }
};

void add_change(const LowRankChange& c, const Target& t, float factor) {
  Tensor up = as_f32(c.up), down = c.mid.empty() ? as_f32(c.down) : joined(c.down, c.mid);
  add_product(t.values, up.f32().data(), down.f32().data(), t.rows, up.count() / t.rows, t.columns, factor, t.pool);
}

void add_change(const HadamardChange& c, const Target& t, float factor) {
  Tensor first = product(c.w1_a, c.w1_b, c.t1, t.pool), second = product(c.w2_a, c.w2_b, c.t2, t.pool);
  const float *a = first.f32().data(), *b = second.f32().data();
  for (int64_t i = 0; i < t.count(); ++i) t.values[i] += factor * (a[i] * b[i]);
}

void add_change(const KroneckerChange& c, const Target& t, float factor) {
  Tensor first = c.w1.empty() ? product(c.w1_a, c.w1_b, {}, t.pool) : as_f32(c.w1);
  Tensor second = c.w2.empty() ? product(c.w2_a, c.w2_b, c.t2, t.pool) : as_f32(c.w2);
  const int64_t rows2 = second.dim(0), columns1 = first.dim(1), columns2 = second.count() / rows2;
  const float *a = first.f32().data(), *b = second.f32().data();
  for (int64_t row = 0; row < t.rows; ++row)
    for (int64_t block = 0; block < columns1; ++block) {
      float left = a[row / rows2 * columns1 + block];
      const float* right = b + row % rows2 * columns2;
      float* out = t.values + row * t.columns + block * columns2;
      for (int64_t i = 0; i < columns2; ++i) out[i] += factor * (left * right[i]);
    }
}

void add_change(const Difference& c, const Target& t, float factor) {
  Tensor value = as_f32(c.value);
  for (int64_t i = 0; i < t.count(); ++i) t.values[i] += factor * value.f32()[size_t(i)];
}

void add_change(const Replacement& c, const Target& t, float) {
  Tensor value = as_f32(c.value);
  std::ranges::copy(value.f32(), t.values);
}

float root_sum(double sum) { return float(std::sqrt(sum)) + std::numeric_limits<float>::epsilon(); }

/// DoRA (Liu et al. 2024): the changed weight, brought to the learned magnitudes. By row the magnitude that is divided out is the
/// original weight's, by input channel the changed one's: so the reference does, and files are trained against both.
void decompose(const LoraPatch& patch, const Target& t, float strength) {
  std::vector<float> changed(t.values, t.values + t.count());
  std::visit(
      [&](const auto& change) {
        add_change(change, Target{changed.data(), t.rows, t.columns, t.window, t.pool}, float(patch.scale));
      },
      patch.change);
  Tensor scale = as_f32(patch.dora_scale);
  bool by_row = scale.dim(0) == t.rows;
  int64_t channels = t.columns / t.window;
  std::vector<double> sums(size_t(by_row ? t.rows : channels));
  auto group = [&](int64_t i) { return size_t(by_row ? i / t.columns : i % t.columns / t.window); };
  for (int64_t i = 0; i < t.count(); ++i) {
    double value = by_row ? t.values[i] : changed[size_t(i)];
    sums[group(i)] += value * value;
  }
  for (int64_t i = 0; i < t.count(); ++i) {
    float& c = changed[size_t(i)];
    c *= scale.f32()[group(i)] / root_sum(sums[group(i)]);
    t.values[i] = strength == 1 ? c : t.values[i] + strength * (c - t.values[i]);
  }
}

void apply_patch(const LoraPatch& patch, double strength, Tensor& weight, ThreadPool& pool) {
  const LoraPlace& place = patch.place;
  int64_t columns = place.columns();
  int64_t window = 1;
  for (size_t i = 2; i < place.shape.size(); ++i) window *= place.shape[i];
  float* begin = weight.f32().data() + place.begin * columns;
  Target target{begin, place.rows, columns, window, pool};
  auto swap_halves = [&] {
    if (place.halves_swapped) std::rotate(begin, begin + place.rows / 2 * columns, begin + place.rows * columns);
  };
  swap_halves();
  if (!patch.dora_scale.empty())
    decompose(patch, target, float(strength));
  else
    std::visit([&](const auto& change) { add_change(change, target, float(strength * patch.scale)); }, patch.change);
  swap_halves();
}

/// All tensors of a patch; some may be empty.
std::vector<const Tensor*> factors(const LoraPatch& patch) {
  struct Factors {
    std::vector<const Tensor*> operator()(const LowRankChange& c) const { return {&c.up, &c.down, &c.mid}; }
    std::vector<const Tensor*> operator()(const HadamardChange& c) const {
      return {&c.w1_a, &c.w1_b, &c.w2_a, &c.w2_b, &c.t1, &c.t2};
    }
    std::vector<const Tensor*> operator()(const KroneckerChange& c) const {
      return {&c.w1, &c.w1_a, &c.w1_b, &c.w2, &c.w2_a, &c.w2_b, &c.t2};
    }
    std::vector<const Tensor*> operator()(const Difference& c) const { return {&c.value}; }
    std::vector<const Tensor*> operator()(const Replacement& c) const { return {&c.value}; }
  };
  std::vector<const Tensor*> all = std::visit(Factors{}, patch.change);
  all.push_back(&patch.dora_scale);
  std::erase_if(all, [](const Tensor* factor) { return factor->empty(); });
  return all;
}

/// The weight with products added, as `as`. A few rows at a time, in the nearest cache, from the file's type to the result's: a
/// weight in f32 would be written and read again from memory three times.
Tensor with_products(const Tensor& original, const std::vector<RowProduct>& products, ThreadPool& pool, DType as) {
  struct Factors {
    Tensor up;
    RightFactor down;
  };
  const int64_t rows = original.dim(0), columns = original.count() / rows;
  std::vector<Factors> factors;
  for (const RowProduct& p : products) {
    Tensor down = as_f32(p.down);
    factors.push_back({as_f32(p.up), RightFactor(down.f32().data(), p.inner(), columns)});
  }
  Tensor result(as, original.shape());
  struct Buffers {
    std::vector<std::byte> read;
    std::vector<float> values;
  };
  std::vector<Buffers> of_worker(size_t(pool.threads()));
  const MappedFile* file = MappedFile::containing(original.data());
  const int64_t row_bytes = columns * byte_size(original.dtype());
  pool.parallel_for(rows, kRowsAtOnce, [&](int64_t begin, int64_t end, int worker) {
    auto& [read, values] = of_worker[size_t(worker)];
    values.resize(size_t(kRowsAtOnce * columns));
    const int64_t count = (end - begin) * columns;
    const std::byte* from = original.data() + begin * row_bytes;
    if (file) {
      read.resize(size_t(kRowsAtOnce * row_bytes));
      file->read(from, read.data(), size_t((end - begin) * row_bytes));
      from = read.data();
    }
    convert(from, original.dtype(), values.data(), DType::f32, count);
    for (size_t i = 0; i < products.size(); ++i) {
      const RowProduct& p = products[i];
      const int64_t first = std::max(begin, p.begin), last = std::min(end, p.end);
      if (first >= last) continue;
      factors[i].down.add_product(values.data() + (first - begin) * columns,
                                  factors[i].up.f32().data() + (first - p.begin) * p.inner(), last - first, p.factor);
    }
    convert(values.data(), DType::f32, result.data() + begin * columns * byte_size(as), as, count);
  });
  return result;
}

}  // namespace

int64_t LoraPlace::columns() const {
  int64_t columns = 1;
  for (size_t i = 1; i < shape.size(); ++i) columns *= shape[i];
  return columns;
}

LoraStack::LoraStack(std::vector<AppliedLora> loras) : loras_(std::move(loras)) {
  for (const AppliedLora& lora : loras_)
    for (const LoraPatch& patch : lora.file->patches) {
      bool model = patch.place.component == Component::Denoiser;
      double strength = model ? lora.model_strength : lora.text_strength;
      if (strength != 0) patches_[{patch.place.component, patch.place.weight}].push_back({lora.file.get(), &patch, strength});
    }
}

bool LoraStack::changes(Component component, const std::string& weight) const { return patches_.contains({component, weight}); }

/// Those of one weight, null without any; they must have been read for its shape.
const std::vector<LoraStack::Applied>* LoraStack::changes_of(Component component, const std::string& weight,
                                                             const Tensor& original) const {
  auto found = patches_.find({component, weight});
  if (found == patches_.end()) return nullptr;
  for (const Applied& applied : found->second) {
    const LoraPlace& place = applied.patch->place;
    int64_t rows = original.rank() > 0 ? original.dim(0) : 1;
    if (rows != place.shape[0] || original.count() != rows * place.columns())
      fail(Code::InvalidArgument, "{} has the shape {}, but the LoRA was read for {}", weight, shape_text(original.shape()),
           shape_text(place.shape));
  }
  return &found->second;
}

bool LoraStack::is_by_rows(const std::vector<Applied>& patches) {
  return std::ranges::all_of(patches, [](const Applied& applied) {
    return std::holds_alternative<LowRankChange>(applied.patch->change) && applied.patch->dora_scale.empty() &&
           !applied.patch->place.halves_swapped;
  });
}

std::vector<RowProduct> LoraStack::products_of(const std::vector<Applied>& patches) {
  std::vector<RowProduct> products;
  for (const Applied& applied : patches) {
    const LoraPlace& place = applied.patch->place;
    const auto& change = std::get<LowRankChange>(applied.patch->change);
    products.push_back({.up = change.up,
                        .down = change.mid.empty() ? change.down : joined(change.down, change.mid),
                        .begin = place.begin,
                        .end = place.begin + place.rows,
                        .factor = float(applied.strength * applied.patch->scale)});
  }
  return products;
}

std::optional<std::vector<RowProduct>> LoraStack::products(Component component, const std::string& weight,
                                                           const Tensor& original) const {
  const auto* patches = changes_of(component, weight, original);
  if (!patches || original.rank() == 0 || !is_by_rows(*patches)) return {};
  return products_of(*patches);
}

Tensor LoraStack::apply(Component component, const std::string& weight, const Tensor& original, ThreadPool& pool,
                        DType as) const {
  const auto* patches = changes_of(component, weight, original);
  if (!patches) return original.to(as);
  Tensor result;
  if (original.rank() > 0 && original.count() > 0 && is_by_rows(*patches)) {
    result = with_products(original, products_of(*patches), pool, as);
  } else {
    Tensor whole = original.dtype() == DType::f32 ? original.clone() : original.to(DType::f32);
    for (const Applied& applied : *patches) apply_patch(*applied.patch, applied.strength, whole, pool);
    result = whole.to(as);
  }
  for (const Applied& applied : *patches)
    for (const Tensor* factor : factors(*applied.patch)) applied.file->source.drop(*factor);
  return result;
}

int64_t LoraStack::working_bytes(Component component, const std::string& weight, DType as, int threads) const {
  auto found = patches_.find({component, weight});
  if (found == patches_.end()) return 0;
  const bool by_rows = is_by_rows(found->second);
  int64_t result = 0, most = 0, all = 0;
  for (const Applied& applied : found->second) {
    const LoraPatch& patch = *applied.patch;
    int64_t row = patch.place.columns() * byte_size(DType::f32);
    int64_t rows = patch.place.shape.empty() ? 1 : patch.place.shape[0];
    result = rows * patch.place.columns() * byte_size(as) + (by_rows ? 2 * threads * kRowsAtOnce * row : 0);
    if (!by_rows && as != DType::f32) result += rows * row;
    int64_t part = patch.place.rows * row, working = 0;
    for (const Tensor* factor : factors(patch)) working += factor->bytes() + factor->count() * byte_size(DType::f32);
    // What is multiplied out before it is added: two products, or one of a convolution in three.
    if (std::holds_alternative<HadamardChange>(patch.change)) working += 2 * part;
    if (std::holds_alternative<KroneckerChange>(patch.change)) working += part;
    if (auto* change = std::get_if<LowRankChange>(&patch.change); change && !change->mid.empty()) working += part;
    if (!patch.dora_scale.empty()) working += part;
    most = std::max(most, working), all += working;
  }
  return result + (by_rows ? all : most);
}

Digest LoraStack::identity() const {
  Hasher hasher;
  for (const AppliedLora& lora : loras_)
    if (lora.model_strength != 0 || lora.text_strength != 0)
      hasher.add(lora.file->identity).add(lora.model_strength).add(lora.text_strength);
  return hasher.digest();
}

}  // namespace sinter
