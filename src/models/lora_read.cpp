#include <algorithm>
#include <cmath>
#include <optional>

#include "io/checkpoint.h"
#include "models/lora_keys.h"

namespace sinter {
namespace {

/// The tensors of one module by role, with their keys. Reading a patch takes what it uses; the rest is not loaded.
class Parts {
 public:
  void add(LoraRole role, const std::string& key, Tensor tensor) {
    if (!parts_.try_emplace(role, key, std::move(tensor)).second) left_.push_back(key);
  }
  bool has(LoraRole role) const { return parts_.contains(role); }
  /// Empty where there is none.
  const Tensor& get(LoraRole role) {
    static const Tensor none;
    auto found = parts_.find(role);
    if (found == parts_.end()) return none;
    used_.push_back(role);
    return found->second.second;
  }
  void release_all() { used_.clear(); }
  std::vector<std::string> left() const {
    std::vector<std::string> keys = left_;
    for (auto& [role, part] : parts_)
      if (std::ranges::find(used_, role) == used_.end()) keys.push_back(part.first);
    return keys;
  }

 private:
  std::map<LoraRole, std::pair<std::string, Tensor>> parts_;
  std::vector<LoraRole> used_;
  std::vector<std::string> left_;
};

/// Why a module is not loaded; caught within this file.
struct Misfit {
  std::string reason;
};
void require(bool fits, const std::string& reason) {
  if (!fits) throw Misfit{reason};
}
std::string shapes_text(const Tensor& a, const Tensor& b, const LoraPlace& place) {
  return fmt::format("{} and {} do not make {} rows of {}", shape_text(a.shape()), shape_text(b.shape()), place.rows,
                     place.columns());
}

bool usable(const Tensor& t, int least_rank) { return !t.empty() && t.rank() >= least_rank && t.count() > 0; }
/// a b c = whole, for positive sizes; the product of hostile ones may not fit.
bool make_up(int64_t a, int64_t b, int64_t c, int64_t whole) {
  return whole % a == 0 && whole / a % b == 0 && whole / a / b == c;
}
int64_t flat_columns(const Tensor& t) { return t.count() / t.dim(0); }

std::optional<double> read_alpha(Parts& parts) {
  if (!parts.has(LoraRole::alpha)) return std::nullopt;
  const Tensor& alpha = parts.get(LoraRole::alpha);
  require(alpha.count() == 1, "alpha is not one number");
  double value = alpha.to(DType::f32).f32()[0];
  require(std::isfinite(value), "alpha is not finite");
  return value;
}
/// alpha / rank; 1 without alpha.
double scale_of(Parts& parts, int64_t rank) {
  auto alpha = read_alpha(parts);
  return alpha ? *alpha / double(rank) : 1.0;
}

void read_low_rank(Parts& parts, LoraPatch& patch) {
  LowRankChange c{parts.get(LoraRole::up), parts.get(LoraRole::down), parts.get(LoraRole::mid)};
  require(usable(c.up, 2) && usable(c.down, 2), "up and down must be matrices");
  bool fits = c.up.dim(0) == patch.place.rows;
  if (parts.has(LoraRole::mid)) {
    require(usable(c.mid, 4) && c.mid.rank() == 4, "mid must be a convolution");
    fits = fits && flat_columns(c.up) == c.mid.dim(0) && c.mid.dim(1) == c.down.dim(0) &&
           make_up(flat_columns(c.down), c.mid.dim(2), c.mid.dim(3), patch.place.columns());
  } else {
    fits = fits && flat_columns(c.up) == c.down.dim(0) && flat_columns(c.down) == patch.place.columns();
  }
  require(fits, shapes_text(c.up, c.down, patch.place));
  patch.scale = scale_of(parts, c.down.dim(0));
  patch.change = c;
}

/// Rows and columns of the product a . b, with a core t [i, j, k, l] of a [i, rows], b [j, columns / (k l)] in Tucker form.
bool factors_fit(const Tensor& a, const Tensor& b, const Tensor& t, int64_t rows, int64_t columns) {
  if (!usable(a, 2) || !usable(b, 2) || a.rank() != 2 || b.rank() != 2) return false;
  if (t.empty()) return a.dim(0) == rows && a.dim(1) == b.dim(0) && b.dim(1) == columns;
  return usable(t, 4) && t.rank() == 4 && t.dim(0) == a.dim(0) && t.dim(1) == b.dim(0) && a.dim(1) == rows &&
         make_up(b.dim(1), t.dim(2), t.dim(3), columns);
}

void read_hadamard(Parts& parts, LoraPatch& patch) {
  HadamardChange c{parts.get(LoraRole::hada_w1_a), parts.get(LoraRole::hada_w1_b), parts.get(LoraRole::hada_w2_a),
                   parts.get(LoraRole::hada_w2_b), parts.get(LoraRole::hada_t1),   parts.get(LoraRole::hada_t2)};
  int64_t rows = patch.place.rows, columns = patch.place.columns();
  require(c.t1.empty() == c.t2.empty(), "one of hada_t1 and hada_t2 is missing");
  require(factors_fit(c.w1_a, c.w1_b, c.t1, rows, columns), shapes_text(c.w1_a, c.w1_b, patch.place));
  require(factors_fit(c.w2_a, c.w2_b, c.t2, rows, columns), shapes_text(c.w2_a, c.w2_b, patch.place));
  patch.scale = scale_of(parts, c.w1_b.dim(0));
  patch.change = c;
}

void read_kronecker(Parts& parts, LoraPatch& patch) {
  KroneckerChange c{parts.get(LoraRole::lokr_w1), parts.get(LoraRole::lokr_w1_a), parts.get(LoraRole::lokr_w1_b),
                    parts.get(LoraRole::lokr_w2), parts.get(LoraRole::lokr_w2_a), parts.get(LoraRole::lokr_w2_b),
                    parts.get(LoraRole::lokr_t2)};
  bool whole1 = parts.has(LoraRole::lokr_w1), whole2 = parts.has(LoraRole::lokr_w2);
  bool tucker = !whole2 && parts.has(LoraRole::lokr_t2);
  require(whole1 ? usable(c.w1, 2) && c.w1.rank() == 2 : usable(c.w1_a, 2) && usable(c.w1_b, 2), "lokr_w1 is incomplete");
  require(whole2 ? usable(c.w2, 2) : usable(c.w2_a, 2) && usable(c.w2_b, 2), "lokr_w2 is incomplete");
  int64_t rows1 = whole1 ? c.w1.dim(0) : c.w1_a.dim(0), columns1 = whole1 ? c.w1.dim(1) : c.w1_b.dim(1);
  require(patch.place.rows % rows1 == 0 && patch.place.columns() % columns1 == 0,
          "the sizes of lokr_w1 do not divide the layer's");
  int64_t rows2 = patch.place.rows / rows1, columns2 = patch.place.columns() / columns1;
  require(whole1 || factors_fit(c.w1_a, c.w1_b, {}, rows1, columns1), shapes_text(c.w1_a, c.w1_b, patch.place));
  if (whole2)
    require(c.w2.dim(0) == rows2 && flat_columns(c.w2) == columns2, shapes_text(whole1 ? c.w1 : c.w1_a, c.w2, patch.place));
  else
    require(factors_fit(c.w2_a, c.w2_b, tucker ? c.t2 : Tensor(), rows2, columns2), shapes_text(c.w2_a, c.w2_b, patch.place));
  // The reference divides by the rank of the last factored part, and ignores alpha where nothing is factored.
  auto alpha = read_alpha(parts);
  if (alpha && !(whole1 && whole2)) patch.scale = *alpha / double(whole2 ? c.w1_b.dim(0) : c.w2_b.dim(0));
  patch.change = c;
}

void read_dora_scale(Parts& parts, LoraPatch& patch) {
  if (!parts.has(LoraRole::dora_scale)) return;
  const Tensor& scale = parts.get(LoraRole::dora_scale);
  require(scale.rank() >= 1, "dora_scale must have an axis");
  bool by_row = scale.dim(0) == patch.place.rows && scale.count() == patch.place.rows;
  bool by_column = patch.place.shape.size() >= 2 && scale.count() == patch.place.shape[1];
  require(by_row || by_column, "dora_scale " + shape_text(scale.shape()) + " fits neither rows nor columns");
  patch.dora_scale = scale;
}

/// Values for all of the place; bias, weight and norms alike.
Tensor read_values(Parts& parts, LoraRole role, const LoraPlace& place) {
  const Tensor& value = parts.get(role);
  require(value.count() == place.rows * place.columns() && value.rank() > 0 && value.dim(0) == place.rows,
          "the shape " + shape_text(value.shape()) + " is not the layer's");
  return value;
}

class Reader {
 public:
  Reader(LoraFile& file, std::span<const LoraNetwork> networks) : file_(file), places_(lora_key_map(networks)) {
    for (const LoraNetwork& network : networks)
      for (const WeightUse& use : network.weights) shapes_[{network.component, use.name}] = &use.type.shape;
  }

  void read(const std::map<std::string, Tensor>& tensors) {
    std::map<std::string, Parts, std::less<>> modules;
    for (auto& [key, tensor] : tensors) {
      std::string_view module;
      LoraRole role;
      if (!split_lora_key(key, module, role))
        warn(key, "it ends in nothing that is known");
      else
        modules[std::string(module)].add(role, key, tensor);
    }
    for (auto& [module, parts] : modules) read_module(module, parts);
    std::ranges::sort(file_.warnings);
  }

 private:
  void warn(const std::string& key, const std::string& reason) {
    file_.warnings.push_back("lora key not loaded: " + key + " (" + reason + ")");
  }
  void warn(const Parts& parts, const std::string& reason) {
    for (const std::string& key : parts.left()) warn(key, reason);
  }

  void read_module(const std::string& module, Parts& parts) {
    auto found = places_.find(module);
    if (found == places_.end()) return warn(parts, "the model has no such layer");
    try {
      read_weight(parts, found->second);
      read_bias(parts, found->second);
    } catch (const Misfit& misfit) {
      parts.release_all();
      return warn(parts, misfit.reason);
    }
    warn(parts, "other tensors of this layer take precedence, or some are missing");
  }

  /// Where a file has several changes of one weight, the reference keeps the last of this order.
  void read_weight(Parts& parts, const LoraPlace& place) {
    LoraPatch patch{place, Difference{}};
    if (parts.has(LoraRole::set_weight)) {
      patch.change = Replacement{read_values(parts, LoraRole::set_weight, place)};
    } else if (parts.has(LoraRole::diff)) {
      patch.change = Difference{read_values(parts, LoraRole::diff, place)};
    } else if (parts.has(LoraRole::w_norm)) {
      patch.change = Difference{read_values(parts, LoraRole::w_norm, place)};
    } else if (parts.has(LoraRole::lokr_w1) || parts.has(LoraRole::lokr_w1_a)) {
      read_kronecker(parts, patch);
      read_dora_scale(parts, patch);
    } else if (parts.has(LoraRole::hada_w1_a)) {
      read_hadamard(parts, patch);
      read_dora_scale(parts, patch);
    } else if (parts.has(LoraRole::up) && parts.has(LoraRole::down)) {
      read_low_rank(parts, patch);
      read_dora_scale(parts, patch);
    } else {
      return;
    }
    add(std::move(patch));
  }

  void read_bias(Parts& parts, const LoraPlace& place) {
    for (LoraRole role : {LoraRole::b_norm, LoraRole::diff_b}) {
      if (!parts.has(role) || !place.weight.ends_with(".weight")) continue;
      LoraPlace bias = place;
      bias.weight.replace(bias.weight.size() - 6, 6, "bias");
      auto found = shapes_.find({bias.component, bias.weight});
      require(found != shapes_.end() && found->second->size() == 1, "the layer has no bias");
      bias.shape = {(*found->second)[0].constant()};
      require(bias.begin + bias.rows <= bias.shape[0], "the layer's bias is shorter");
      add({bias, Difference{read_values(parts, role, bias)}});
    }
  }

  void add(LoraPatch patch) { file_.patches.push_back(std::move(patch)); }

  LoraFile& file_;
  LoraKeyMap places_;
  std::map<std::pair<Component, std::string>, const Shape*> shapes_;
};

}  // namespace

LoraFile LoraFile::read(const std::map<std::string, Tensor>& tensors, std::span<const LoraNetwork> networks) {
  LoraFile file;
  Reader(file, networks).read(tensors);
  return file;
}

LoraFile LoraFile::open(const std::filesystem::path& path, std::span<const LoraNetwork> networks) {
  Checkpoint checkpoint = Checkpoint::open(path);
  std::map<std::string, Tensor> tensors;
  std::vector<std::string> foreign;
  for (const std::string& key : checkpoint.names())
    if (checkpoint.find(key)->dtype)
      tensors.emplace(key, checkpoint.tensor(key));
    else
      foreign.push_back(key);
  LoraFile file = read(tensors, networks);
  for (const std::string& key : foreign) file.warnings.push_back("lora key not loaded: " + key + " (of a type that we lack)");
  std::ranges::sort(file.warnings);
  file.path = path.string();
  file.source = checkpoint;
  file.identity = checkpoint.identity();
  return file;
}

}  // namespace sinter
