// A denoiser's weights from a file in the page cache to the device, beside a plain copy from page-locked memory and what the host
// reads of that file without a device, and what a LoRA and its strength cost.
//   cuda_load_bench MODEL --file FILE [--json FILE]
// MODEL is sd15, sdxl or flux. If FILE is not there, it is written, with random weights in bf16, used once to fill the cache of
// programs, and that is all. How each figure is measured: bench/README.md.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "backends/cuda/plan.h"
#include "backends/cuda/upload.h"
#include "base/file.h"
#include "base/spans.h"
#include "bench_tools.h"
#include "cuda_models.h"
#include "models/lora.h"
#include "process_start.h"

using namespace sinter;

namespace {

std::vector<int64_t> constant_shape(const WeightUse& use) {
  std::vector<int64_t> shape;
  for (const Dim& dim : use.type.shape) shape.push_back(dim.constant());
  return shape;
}

/// Numbers of the size that trained weights have: one block, again and again.
void write_weights(const std::string& path, const std::vector<WeightUse>& uses) {
  constexpr int64_t kBlock = 1 << 24;
  Tensor floats(DType::f32, {kBlock});
  uint32_t state = 11;
  for (float& x : floats.f32()) state = state * 1664525 + 1013904223, x = float(int32_t(state)) * 0x1p-31f * 0.05f;
  Tensor block = floats.to(DType::bf16);
  std::vector<TensorDeclaration> tensors;
  for (const WeightUse& use : uses) tensors.push_back({use.name, DType::bf16, constant_shape(use)});
  write_safetensors(path, tensors, {}, [&](const TensorDeclaration& tensor, const TensorSink& sink) {
    int64_t left = element_count(tensor.shape);
    for (; left > 0; left -= kBlock) sink(block.data(), size_t(std::min(left, kBlock) * 2));
  });
}

/// Random changes in f16 to every linear layer of attentions and feed-forward layers.
std::shared_ptr<const LoraFile> random_lora(const std::vector<WeightUse>& uses, int64_t rank) {
  constexpr int64_t kBlock = 1 << 25;
  auto file = std::make_shared<LoraFile>();
  file->identity = Hasher().add("random LoRA").add(rank).digest();
  Tensor floats(DType::f32, {kBlock});
  uint32_t state = 5;
  for (float& x : floats.f32()) state = state * 1664525 + 1013904223, x = float(int32_t(state)) * 0x1p-31f * 0.1f;
  const Tensor block = floats.to(DType::f16);
  int64_t at = 0;
  auto random = [&](int64_t rows, int64_t columns) {
    if (at + rows * columns > kBlock) at = 0;
    at += rows * columns;
    return block.rows(at - rows * columns, at).reshaped({rows, columns});
  };
  for (const WeightUse& use : uses) {
    auto shape = constant_shape(use);
    if (shape.size() != 2 || use.name.find("embed") != std::string::npos || use.name.find("_in.") != std::string::npos) continue;
    LoraPatch patch;
    patch.place = {.component = Component::Denoiser, .weight = use.name, .shape = shape, .begin = 0, .rows = shape[0]};
    Tensor up = random(shape[0], rank), down = random(rank, shape[1]);
    patch.change = LowRankChange{.up = up, .down = down, .mid = {}};
    patch.scale = 16 / double(rank);
    file->patches.push_back(std::move(patch));
  }
  return file;
}

/// Bytes a second of copies from page-locked memory to the device.
double pinned_rate(cuda::Engine& engine) {
  constexpr int64_t kBytes = int64_t(1) << 30;
  constexpr int kCopies = 8;
  cuda::PinnedMemory host(engine.context(), kBytes);
  for (int64_t i = 0; i < kBytes; i += 8) *reinterpret_cast<uint64_t*>(host.data() + i) = uint64_t(i) * 0x9e3779b97f4a7c15;
  cuda::DeviceMemory device(engine.context(), kBytes);
  cuda::Event begin(engine.context(), cuda::Event::Timing::Yes), end(engine.context(), cuda::Event::Timing::Yes);
  cuda::copy_to_device(device.address(), host.data(), kBytes, engine.stream());
  begin.record(engine.stream());
  for (int i = 0; i < kCopies; ++i) cuda::copy_to_device(device.address(), host.data(), kBytes, engine.stream());
  end.record(engine.stream());
  end.synchronize();
  return double(kBytes) * kCopies / (end.milliseconds_since(begin) * 1e-3);
}

/// Bytes a second of a file in the page cache, read by all threads as for an upload, but into memory that stays in their caches.
double reading_rate(ThreadPool& pool, const std::string& path) {
  constexpr int64_t kPiece = cuda::kUploadPiece;
  auto file = MappedFile::open(path);
  const auto bytes = int64_t(file->size());
  std::vector<std::byte> memory(size_t(pool.threads() * kPiece));
  auto read = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t at = begin * kPiece; at < std::min(end * kPiece, bytes); at += kPiece)
      file->read(file->bytes().data() + at, memory.data() + worker * kPiece, size_t(std::min(kPiece, bytes - at)));
  };
  return double(bytes) / best_time([&] { pool.parallel_for(divide_up(bytes, kPiece), 1, read); });
}

uint64_t misses(Cache& cache) {
  cache.flush();
  return cache.stats().totals.misses;
}

/// A denoiser of a checkpoint on the device.
class Denoiser {
 public:
  Denoiser(cuda::Engine& engine, const BenchModel& model, const Weights& weights)
      : engine_(engine),
        weights_(weights),
        compiled_(engine, *model.graph, {.label = model.name}, report_),
        bound_(engine.bind_weights(compiled_)),
        layout_(compiled_, model.sizes) {
    add_random_inputs(*model.graph, model.sizes, inputs_);
  }

  int64_t bytes() const { return bound_->bytes(); }
  const CompileReport& report() const { return report_; }

  /// Seconds. `on_host`: as for LoRAs that a device cannot add.
  double load(const LoraStack& loras = {}, bool on_host = false) {
    double begin = now();
    auto read = [&](const std::string& name) {
      Tensor tensor = weights_.load(name);
      return loras.apply(Component::Denoiser, name, tensor, engine_.pool(), tensor.dtype());  // as ImageModel does
    };
    auto changed = [&](const std::string& name) -> std::optional<ChangedWeight> {
      Tensor tensor = weights_.load(name);
      auto products = loras.products(Component::Denoiser, name, tensor);
      if (!products || on_host) return {};
      return ChangedWeight{std::move(tensor), std::move(*products)};
    };
    bound_->load({read, {}, changed}, [&](const std::string& name) { weights_.drop(name); });
    return now() - begin;
  }
  void unload() { bound_->unload(); }
  void forget(const std::set<std::string>& names) { bound_->forget(names); }

  Tensor step() {
    if (!plan_) plan_ = engine_.plan(compiled_, layout_, *bound_);
    return plan_->run(inputs_)[0];
  }

 private:
  cuda::Engine& engine_;
  const Weights& weights_;
  CompileReport report_;
  CompiledGraph compiled_;
  std::unique_ptr<sinter::BoundWeights> bound_;
  Layout layout_;
  std::unique_ptr<sinter::Plan> plan_;
  std::map<std::string, Tensor> inputs_;
};

/// Changes to one LoRA after another, and what that takes.
class LoraChanges {
 public:
  LoraChanges(cuda::Engine& engine, Denoiser& denoiser) : engine_(engine), denoiser_(denoiser), last_(denoiser.step()) {}

  /// Seconds until a step with this LoRA is done, and whether that step differs from the one before.
  nlohmann::json change(const std::shared_ptr<const LoraFile>& file, double strength, bool on_host = false) {
    std::set<std::string> names;
    for (const LoraPatch& patch : file->patches) names.insert(patch.place.weight);
    uint64_t missed = misses(engine_.cache());
    double begin = now();
    LoraStack stack({{.file = file, .model_strength = strength}});
    denoiser_.forget(names);
    const double loaded = denoiser_.load(stack, on_host);
    Tensor after = denoiser_.step();
    double seconds = now() - begin;
    double difference = relative_error(after.to(DType::f32), last_.to(DType::f32));
    last_ = after;
    return {{"seconds", seconds},
            {"load_s", loaded},
            {"compiles", misses(engine_.cache()) - missed},
            {"changed", difference > 1e-4},
            {"same", difference == 0}};
  }

 private:
  cuda::Engine& engine_;
  Denoiser& denoiser_;
  Tensor last_;
};

void bench(const std::string& name, const std::string& path, const std::string& json) {
  Cache cache(CacheOptions::from_environment());
  BenchModel model = make_bench_model(name, DType::bf16);
  auto uses = weights_of(*model.graph);
  const bool written = !std::filesystem::exists(path);
  if (written) write_weights(path, uses);
  cuda::Engine engine(cache, 0, 0);
  Weights weights = Weights::plain(Checkpoint::open(path));
  Denoiser denoiser(engine, model, weights);
  const double first_load = denoiser.load();
  denoiser.step();
  const double first_step = seconds_since_process_start();
  if (written) {
    fmt::print("{} written, and programs and plans kept; measured is the next run\n", path);
    return;
  }
  denoiser.unload();
  record_spans();
  const double second_load = denoiser.load();
  double filling = 0, waiting = 0;
  for (const SpanSum& sum : sums_of(recorded_spans())) {
    if (sum.kind == "fill a slot") filling = sum.covered;
    if (sum.kind == "wait for a slot") waiting = sum.covered;
  }
  const double host = reading_rate(engine.pool(), path), pinned = pinned_rate(engine);
  auto lora = random_lora(uses, 16);
  LoraChanges changes(engine, denoiser);
  nlohmann::json added = changes.change(lora, 0.8), stronger = changes.change(lora, 1.0),
                 by_host = changes.change(lora, 1.0, true), wide = changes.change(random_lora(uses, 128), 1.0);

  const double bytes = double(denoiser.bytes());
  nlohmann::json line = {{"what", "load"},
                         {"model", name},
                         {"dtype", "bf16"},
                         {"mode", "page cache"},
                         {"compiles", denoiser.report().compiled},
                         {"first_step_s", first_step},
                         {"gpu", engine.context().device().name},
                         {"bytes", denoiser.bytes()},
                         {"load_s", first_load},
                         {"load_gbps", bytes / first_load * 1e-9},
                         {"second_load_gbps", bytes / second_load * 1e-9},
                         {"second_load_s", second_load},
                         {"second_load_filling_s", filling},
                         {"second_load_waiting_s", waiting},
                         {"pinned_gbps", pinned * 1e-9},
                         {"host_gbps", host * 1e-9},
                         {"lora_weights", lora->patches.size()},
                         {"lora", added},
                         {"lora_strength", stronger},
                         {"lora_by_host", by_host},
                         {"lora_rank_128", wide}};
  fmt::print(
      "{} weights, {:.2f} GB from the page cache: {:.1f} GB/s, again {:.1f} GB/s; page-locked memory {:.1f} GB/s, "
      "the host reads the file at {:.1f} GB/s\n",
      name, bytes * 1e-9, bytes / first_load * 1e-9, bytes / second_load * 1e-9, pinned * 1e-9, host * 1e-9);
  fmt::print("  again in {:.1f} ms: {:.1f} its thread fills slots too, {:.1f} it waits until one is sent\n", second_load * 1e3,
             filling * 1e3, waiting * 1e3);
  fmt::print("  first step {:.2f} s after the start of the process, loading {:.2f} s of it\n", first_step, first_load);
  for (const auto& [what, change] : {std::pair{"a LoRA", added}, {"another strength", stronger}, {"one of rank 128", wide}})
    fmt::print("  {} for {} weights: {:.2f} s to the end of a step, {} programs compiled{}\n", what, lora->patches.size(),
               change["seconds"].get<double>(), change["compiles"].get<int>(),
               change["changed"].get<bool>() ? "" : "; THE RESULT DID NOT CHANGE");
  fmt::print("  merged by the host: {:.2f} s{}\n", by_host["seconds"].get<double>(),
             by_host["same"].get<bool>() ? ", the same step" : "; THE STEP IS ANOTHER");
  append_line(json, line.dump());
}

}  // namespace

int main(int argc, char** argv) {
  std::string model, file, json;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--file" && i + 1 < argc)
      file = argv[++i];
    else if (word == "--json" && i + 1 < argc)
      json = argv[++i];
    else
      model = word;
  }
  if (model.empty() || file.empty()) {
    fmt::print(stderr, "usage: cuda_load_bench sd15|sdxl|flux --file FILE [--json FILE]\n");
    return argc == 1 ? 0 : 2;  // `./dev bench` runs every benchmark without arguments
  }
  try {
    bench(model, file, json);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
