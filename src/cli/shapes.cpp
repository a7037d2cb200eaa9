#include "shapes/shapes.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/file.h"
#include "cli/arguments.h"
#include "cli/json_output.h"
#include "cli/output.h"
#include "cli/shape_outputs.h"
#include "compiler/cache.h"
#include "hardware/device_choice.h"
#include "io/image.h"
#include "pipelines/picture_names.h"
#include "shapes/json.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

struct Settings {
  std::vector<std::string> pictures, outs;
  shapes::Options search;
  std::string shape_types = "mixed", style = "dreamy", fill = "auto", device = "auto", preview;
  fs::path resume;
  double alpha = 0, scale = 1;
  bool animate = false, json = false;
};

void note(const std::string& text) { print_error(text + "\n"); }

void add_options(Options& o, Settings& s) {
  o.add_option("IMAGE", s.pictures, "PNG, JPEG or WebP; several are done one after the other")->required();
  o.add_option(
       "-o,--out", s.outs,
       "file name, may be given several times: .png, .jpg, .webp, .svg, .json (shapes with errors), .gif or .mp4 (how the "
       "picture grows); {name} becomes the picture's name")
      ->required()
      ->allow_extra_args(false);
  o.add_option("-n,--shapes", s.search.shapes, "how many shapes to add (default: 200)")->check(CLI::Range(1, 100'000));
  o.add_option("--shape-types", s.shape_types, "mixed, all, or names with commas between them (default: mixed)");
  o.add_option("--style", s.style, "how opaque shapes are: crispy, dreamy or blurry (default: dreamy)")
      ->check(one_of({"crispy", "dreamy", "blurry"}));
  o.add_option("--alpha", s.alpha, "one opacity for all shapes instead of a style")->check(in_range(0.004, 1));
  o.add_option("--candidates", s.search.candidates, "random shapes tried for each shape")->check(CLI::Range(1, 1'000'000));
  o.add_option("--climbers", s.search.climbers, "how many of the best candidates are improved side by side")
      ->check(CLI::Range(1, 4096));
  o.add_option("--mutations", s.search.mutations, "changes that each of the last four climbers tries; earlier ones try fewer")
      ->check(CLI::Range(1, 100'000));
  o.add_flag("--anneal", s.search.anneal, "climbers also take some changes for the worse: a better score for a little more time");
  o.add_option("--compute-size", s.search.compute_size, "longer side of the picture that is searched in (default: 256)")
      ->check(CLI::Range(64, 2048));
  o.add_option("--fill-color", s.fill, "colour to start from, also below transparent pixels: auto or #rrggbb (default: auto)");
  o.add_option("--seed", s.search.seed, "of the random numbers (default: 0)")->check(whole_number());
  o.add_option("--target-error", s.search.target_error, "stop when the score is this low")->check(in_range(0, 1));
  o.add_option("--time-budget", s.search.time_budget, "stop after so many seconds")->check(in_range(0, 1e9));
  o.add_option("--resume", s.resume, "JSON file of an earlier result for this picture, to which shapes are added");
  o.add_option("--scale", s.scale, "size of what is drawn, as a multiple of the picture's (default: 1)")
      ->check(in_range(0.001, 100));
  o.add_flag("--animate", s.animate, "a .webp shows how the picture grows");
  o.add_option("--preview", s.preview, "picture file that is renewed about 20 times during the search");
  o.add_option("--threads", s.search.threads, "threads (default: one a core)")->check(CLI::Range(0, 1024));
  o.add_option("--device", s.device, "auto (a GPU if there is one), cpu, cuda or cuda:N (default: auto)");
  o.add_json(s.json);
}

shapes::Color parse_color(const std::string& text) {
  std::string digits = text.starts_with("#") ? text.substr(1) : text;
  if (digits.size() == 3) digits = {digits[0], digits[0], digits[1], digits[1], digits[2], digits[2]};
  if (digits.size() != 6 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
    throw UsageError(fmt::format("--fill-color: expected auto or a colour as #rrggbb, found \"{}\"", text));
  auto value = std::stoul(digits, nullptr, 16);
  return {uint8_t(value >> 16), uint8_t(value >> 8), uint8_t(value)};
}

/// What can be known to be wrong before any file is read; fills the search's options.
void check_settings(const Options& given, Settings& s) {
  try {
    parse_device(s.device);
  } catch (const Error& e) {
    throw UsageError("--device: " + e.message());
  }
  if (given.count("--alpha") && given.count("--style"))
    throw UsageError("--alpha and --style both say how opaque shapes are; give one of them");
  if (!s.resume.empty() && s.pictures.size() > 1)
    throw UsageError(fmt::format("--resume adds to the result of one picture, and {} are given", s.pictures.size()));
  try {
    s.search.kinds = shapes::parse_kinds(s.shape_types);
  } catch (const Error& e) {
    throw UsageError("--shape-types: " + e.message());
  }
  s.search.alpha = shapes::parse_style(s.style);
  if (given.count("--alpha")) s.search.alpha.low = s.search.alpha.high = uint8_t(std::lround(s.alpha * 255));
  s.search.fill_auto = s.fill == "auto";
  if (!s.search.fill_auto) s.search.fill = parse_color(s.fill);
  bool webp = false;
  for (const std::string& out : s.outs) webp = webp || fs::path(out).extension() == ".webp";
  if (s.animate && !webp) throw UsageError("--animate is for a .webp, and no --out names one; .gif and .mp4 always move");
}

/// All the files that belong to one picture.
struct Plan {
  fs::path picture, preview;
  std::vector<ShapeOutput> outputs;
};

/// The earlier result decides what these say; they are named, never silently ignored.
void name_idle_options(const Options& given, const Settings& s) {
  if (s.resume.empty()) return;
  if (given.count("--compute-size")) note("note: --compute-size has no effect: the result given by --resume has its own");
  if (given.count("--fill-color"))
    note("note: --fill-color only says what shows through transparent pixels: the result given by --resume has its own canvas");
}

std::vector<Plan> make_plans(const Settings& s) {
  const bool several = s.pictures.size() > 1;
  std::vector<Plan> plans;
  std::set<fs::path> names;
  auto claim = [&](const std::string& pattern, const fs::path& picture, const std::string& option) {
    fs::path path = shape_output_name(pattern, picture, several);
    if (!names.insert(fs::weakly_canonical(fs::absolute(path))).second)
      throw UsageError(
          fmt::format("{} would be written twice; give each --out, --preview and picture another name", path.string()));
    for (const std::string& other : s.pictures)
      if (std::error_code ignored; fs::equivalent(path, other, ignored))
        throw UsageError(fmt::format("{} names {}, which is one of the pictures", option, path.string()));
    check_can_write(path, option);
    return path;
  };
  for (const std::string& picture : s.pictures) {
    MappedFile::open(picture);  // a missing file shows now, not after the pictures before it
    Plan plan{picture, {}, {}};
    for (const std::string& out : s.outs) {
      ShapeOutput::Kind kind = shape_output_kind(out, s.animate);
      plan.outputs.push_back({claim(out, picture, "--out"), kind});
    }
    if (!s.preview.empty()) {
      if (shape_output_kind(s.preview, false) != ShapeOutput::Kind::Picture)
        throw UsageError(fmt::format("--preview: expected a .png, .jpg or .webp, found \"{}\"", s.preview));
      plan.preview = claim(s.preview, picture, "--preview");
    }
    plans.push_back(std::move(plan));
  }
  return plans;
}

std::string_view stop_words(shapes::Stop stop) {
  switch (stop) {
    case shapes::Stop::shapes:
      return "shapes";
    case shapes::Stop::target_error:
      return "target_error";
    case shapes::Stop::time_budget:
      return "time_budget";
    case shapes::Stop::cancelled:
      return "cancelled";
    case shapes::Stop::no_improvement:
      return "no_improvement";
  }
  return "";
}

/// The run: pictures one after the other, and the figures of --json.
class ShapeArt {
 public:
  explicit ShapeArt(Settings settings, std::vector<Plan> plans)
      : s_(std::move(settings)), plans_(std::move(plans)), pool_(s_.search.threads) {}

  int run() {
    catch_interrupts();
    open_device();
    for (const Plan& plan : plans_) {
      if (!cancelled_) one_picture(plan);
    }
    report();
    return cancelled_ ? kCancelled : kSuccess;
  }

 private:
  void open_device() {
    DeviceChoice choice = choose_device(s_.device);
    const bool automatic = parse_device(s_.device).kind == DeviceRequest::Kind::Auto;
    if (choice.kind == DeviceChoice::Kind::Cuda) try {
        Cache cache(CacheOptions::from_environment());
        s_.search.gpu = shapes::open_gpu(choice.ordinal, &cache);
      } catch (const Error& e) {
        if (!automatic) throw;
        choice = {.why_not_cuda = e.message()};
      }
    if (!choice.why_not_cuda.empty()) note("searching on the CPU: " + choice.why_not_cuda);
    device_ = choice.text();
  }

  void one_picture(const Plan& plan) {
    // Wider than what diffusion models are given, and no more floats than fit into a laptop.
    constexpr ImageLimits kLimits{.side = 65535, .pixels = 128'000'000};
    Image picture = read_image(plan.picture, kLimits);
    if (picture.animated) note(fmt::format("note: {} is an animation; its first frame is used", plan.picture.string()));
    std::vector<DrawnSize> sizes;
    for (const ShapeOutput& output : plan.outputs) {
      sizes.push_back(drawn_size(output, picture.pixels.dim(1), picture.pixels.dim(0), s_.scale));
      check_shape_output(output, sizes.back());
    }
    shapes::Result result = search(plan, picture);
    picture = {};
    if (result.stop == shapes::Stop::cancelled) {
      cancelled_ = true;
      if (result.steps.empty()) fail(Code::Cancelled, "cancelled before the first shape; nothing is written");
      note(fmt::format("cancelled after {} shapes; writing what there is", result.steps.size()));
    } else if (result.stop == shapes::Stop::no_improvement) {
      note(fmt::format("stopped after {} shapes: no other one lowers the error", result.steps.size()));
    }
    for (size_t i = 0; i < plan.outputs.size(); ++i) {
      // A search that was cancelled keeps its result; a cancelled writing ends at the next frame.
      write_shape_output(plan.outputs[i], result, sizes[i], pool_, [&] {
        if (!cancelled_) throw_if_interrupted();
      });
      outputs_.push_back(plan.outputs[i].path.string());
      if (!s_.json) print(outputs_.back() + "\n");
    }
    add_figures(plan, result);
  }

  shapes::Result search(const Plan& plan, const Image& picture) {
    std::optional<shapes::Result> start;
    shapes::Options options = s_.search;
    if (!s_.resume.empty()) {
      constexpr uint64_t kLimit = uint64_t(1) << 30;
      start = shapes::from_json(read_file(s_.resume, kLimit), s_.resume.string());
      constexpr int kSmallest = 64;  // smaller pictures are not enlarged
      options.compute_size = std::max({kSmallest, start->width, start->height});
    }
    std::string label = plans_.size() > 1 ? printable(plan.picture.filename().string(), 24) : "shapes";
    ProgressBar bar(label, uint64_t(options.shapes));
    bar.show(0);
    bool previews = !plan.preview.empty();
    return shapes::run(picture, options, start ? &*start : nullptr, [&](const shapes::Progress& p) {
      double rate = p.seconds > 0 ? double(p.done) / p.seconds : 0;
      bar.show(uint64_t(p.done), fmt::format("{:.1f} shapes/s, error {:.4f}", rate, shapes::score(*p.result)));
      if (p.preview && previews) previews = preview(plan.preview, *p.result);
      return !interrupted();
    });
  }

  /// False where it cannot be written: that is no reason to lose the result.
  static bool preview(const fs::path& path, const shapes::Result& result) {
    try {
      write_preview(path, result);
      return true;
    } catch (const Error& e) {
      note(fmt::format("note: no more previews: {}", e.message()));
      return false;
    }
  }

  void add_figures(const Plan& plan, const shapes::Result& r) {
    std::vector<std::string> outputs;
    for (const ShapeOutput& output : plan.outputs) outputs.push_back(output.path.string());
    figures_.push_back({{"image", plan.picture.string()},
                        {"score", shapes::score(r)},
                        {"shapes", r.steps.size()},
                        {"candidates", r.candidates},
                        {"seconds", r.seconds},
                        {"cpu_seconds", r.cpu_seconds},
                        {"stop", stop_words(r.stop)},
                        {"width", r.width},
                        {"height", r.height},
                        {"outputs", outputs}});
  }

  /// The figures of the call: sums over its pictures, and the mean of their scores.
  void report() const {
    double score = 0, seconds = 0, cpu_seconds = 0;
    int64_t shapes = 0, candidates = 0;
    std::vector<std::vector<std::string>> rows = {{"picture", "shapes", "score", "candidates", "seconds", "CPU seconds"}};
    for (const auto& f : figures_) {
      score += f["score"].get<double>() / double(figures_.size());
      shapes += f["shapes"].get<int64_t>();
      candidates += f["candidates"].get<int64_t>();
      seconds += f["seconds"].get<double>();
      cpu_seconds += f["cpu_seconds"].get<double>();
      rows.push_back({f["image"], std::to_string(f["shapes"].get<int64_t>()), fmt::format("{:.4f}", f["score"].get<double>()),
                      human_count(f["candidates"].get<uint64_t>()), fmt::format("{:.2f}", f["seconds"].get<double>()),
                      fmt::format("{:.2f}", f["cpu_seconds"].get<double>())});
    }
    if (!s_.json) return note(table(rows));
    print_json({{"score", score},
                {"shapes", shapes},
                {"candidates", candidates},
                {"seconds", seconds},
                {"cpu_seconds", cpu_seconds},
                {"seed", s_.search.seed},
                {"device", device_},
                {"outputs", outputs_},
                {"pictures", figures_}});
  }

  Settings s_;
  std::vector<Plan> plans_;
  ThreadPool pool_;
  std::string device_;  // "cpu", "cuda:0"
  bool cancelled_ = false;
  std::vector<std::string> outputs_;
  std::vector<nlohmann::ordered_json> figures_;
};

int run_shapes(Arguments arguments) {
  Options options(shapes_verb);
  Settings settings;
  add_options(options, settings);
  options.parse_arguments(arguments);
  check_settings(options, settings);
  name_idle_options(options, settings);
  std::vector<Plan> plans = make_plans(settings);
  return ShapeArt(std::move(settings), std::move(plans)).run();
}

}  // namespace

const Verb shapes_verb = {.name = "shapes", .summary = "A picture made of geometric shapes", .run = run_shapes};

}  // namespace sinter
