// Shape art: score and CPU time after 200 and 1,000 shapes, against what the peers took.
//   shapes_bench [--images DIR] [--quick] [--scaling] [--threads N] [--device cpu|cuda|cuda:N] [words that a picture's name must
//   contain]
// On a GPU: times on the wall clock, and every result compared with the CPU's.
// DIR (default ../shared/images) holds raccoon256.png, raccoon512.png and so on; pictures that are not there are left out.
// Peers' figures are from one EPYC Zen 3 (4 cores, AVX2); the machine that runs this is named at the top. Dividing our CPU time
// ratio by 1.7 allows for the difference between a Zen 3 and a Zen 5 core.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "hardware/device_choice.h"
#include "shapes/shapes.h"

using namespace sinter;
using namespace sinter::shapes;

namespace {

/// The peers' table, EPYC Zen 3, AVX2: primitive (commit 0373c21) at 256 px with its default settings, one run each.
struct Peer {
  const char* picture;
  const char* kinds;
  double score_200, cpu_200, score_1000, cpu_1000;
};
constexpr Peer kPrimitive[] = {
    {"raccoon", "triangle", 0.0721, 47, 0.0537, 165},   {"raccoon", "mixed", 0.0716, 77, 0.0520, 333},
    {"astronaut", "triangle", 0.0784, 45, 0.0439, 173}, {"astronaut", "mixed", 0.0774, 78, 0.0414, 349},
    {"coffee", "triangle", 0.0488, 45, 0.0297, 191},    {"coffee", "mixed", 0.0469, 90, 0.0256, 365},
    {"monalisa", "triangle", 0.0313, 53, 0.0219, 189},  {"monalisa", "mixed", 0.0307, 83, 0.0214, 353},
};
/// The same table: the node's 200 mixed shapes, in primitive's score.
constexpr Peer kNode[] = {{"raccoon", "mixed", 0.0786, 51.6, 0, 0}, {"coffee", "mixed", 0.0548, 65.6, 0, 0}};
/// The same table: primitive at 512 px, 200 shapes.
constexpr Peer kPrimitive512[] = {{"raccoon", "mixed", 0.0805, 113, 0, 0}, {"coffee", "triangle", 0.0499, 114, 0, 0}};

struct Moment {
  size_t shapes = 0;
  double score = 0, cpu = 0, wall = 0;
};

struct Run {
  Result result;
  std::vector<Moment> moments;  // after each shape

  const Moment& after(size_t shapes) const { return moments.at(shapes - 1); }
  std::optional<Moment> reaching(double score) const {
    for (const Moment& m : moments)
      if (m.score <= score) return m;
    return std::nullopt;
  }
};

Run timed(const Image& image, const Options& options) {
  Run run;
  run.result = shapes::run(image, options, nullptr, [&](const Progress& p) {
    run.moments.push_back({p.result->steps.size(), score(*p.result), p.result->cpu_seconds, p.seconds});
    return true;
  });
  // The neutral scorer: shapes drawn anew on 8-bit pixels, compared with the target.
  SINTER_ASSERT(squared_error(draw(run.result), compute_picture(image, options)) == run.result.error());
  return run;
}

struct Bench {
  std::string images = "../shared/images", filter;
  bool quick = false;
  int threads = 1;
  std::shared_ptr<Gpu> gpu;

  std::optional<Image> picture(const std::string& name) const {
    std::string path = images + "/" + name + ".png";
    if (name.find(filter) == std::string::npos) return std::nullopt;
    if (!std::ifstream(path)) {
      fmt::print("{:<10} left out: {} not found (--images DIR)\n", name, path);
      return std::nullopt;
    }
    return read_image(path);
  }
  Options options(const char* kinds, int64_t shapes) const {
    Options o;
    o.kinds = parse_kinds(kinds);
    o.shapes = shapes;
    o.threads = threads;
    o.gpu = gpu;
    return o;
  }
};

std::string machine() {
  std::ifstream info("/proc/cpuinfo");
  std::string model = "unknown", family = "?";
  for (std::string line; std::getline(info, line) && !line.empty();) {
    auto value = line.substr(std::min(line.size(), line.find(':') + 2));
    if (line.rfind("model name", 0) == 0) model = value;
    if (line.rfind("cpu family", 0) == 0) family = value;
  }
  return fmt::format("{}, family {}", model, family);
}

std::string time_to(const Run& run, double target, double peer_cpu) {
  auto moment = run.reaching(target);
  if (!moment) return "not reached";
  return fmt::format("{:>4} shapes {:>5.2f} s = 1/{:<4.0f}", moment->shapes, moment->cpu, peer_cpu / moment->cpu);
}

void against_primitive(const Bench& bench) {
  fmt::print(
      "\n256 px, default effort, dreamy, {} thread(s). Peer: primitive. CPU-s; \"to 200\" and \"to 1000\": until its score.\n",
      bench.threads);
  fmt::print("{:<10}{:<9}|{:>8}{:>7}{:>7}{:>8}{:>7} |{:>8}{:>7}{:>7}{:>8}{:>7} |{:>9} | {:<28} | {}\n", "picture", "kinds",
             "at 200", "peer", "better", "CPU-s", "wall", "at 1000", "peer", "better", "CPU-s", "wall", "k/CPU-s",
             "to peer's 200", "to peer's 1000");
  for (const Peer& peer : kPrimitive) {
    auto image = bench.picture(fmt::format("{}256", peer.picture));
    if (!image) continue;
    Run run = timed(*image, bench.options(peer.kinds, bench.quick ? 200 : 1000));
    const Moment& few = run.after(200);
    fmt::print("{:<10}{:<9}|{:>8.4f}{:>7.4f}{:>6.1f}%{:>8.2f}{:>7.2f} |", peer.picture, peer.kinds, few.score, peer.score_200,
               100 * (1 - few.score / peer.score_200), few.cpu, few.wall);
    if (!bench.quick) {
      const Moment& many = run.after(1000);
      fmt::print("{:>8.4f}{:>7.4f}{:>6.1f}%{:>8.2f}{:>7.2f} |", many.score, peer.score_1000,
                 100 * (1 - many.score / peer.score_1000), many.cpu, many.wall);
    }
    fmt::print("{:>9.0f} | {:<28} | {}\n", double(run.result.candidates) / run.result.cpu_seconds * 1e-3,
               time_to(run, peer.score_200, peer.cpu_200), bench.quick ? "" : time_to(run, peer.score_1000, peer.cpu_1000));
    std::fflush(stdout);
  }
}

void against_node(const Bench& bench) {
  fmt::print(
      "\nThe node's 200 mixed shapes at 256 px: until its score, with the default effort and with --climbers 24 --mutations "
      "60.\n");
  for (const Peer& peer : kNode)
    if (auto image = bench.picture(fmt::format("{}256", peer.picture))) {
      Options options = bench.options(peer.kinds, 200);
      Run normal = timed(*image, options);
      options.climbers = 24, options.mutations = 60;
      fmt::print("{:<10}{:<9} peer {:.4f} in {:.1f} CPU-s | {} | {}\n", peer.picture, peer.kinds, peer.score_200, peer.cpu_200,
                 time_to(normal, peer.score_200, peer.cpu_200), time_to(timed(*image, options), peer.score_200, peer.cpu_200));
      std::fflush(stdout);
    }
}

/// The score that a result has where it is seen at 256 px.
double score_at_256(const Run& run, const Image& small) {
  Pixels canvas = draw(run.result);
  Image seen{Tensor(DType::f32, {canvas.height, canvas.width, 3}), {}};
  for (size_t i = 0; i < canvas.rgb.size(); ++i) seen.pixels.f32()[i] = float(canvas.rgb[i]) / 255.0f;
  Pixels shrunk = compute_picture(seen, {}), target = compute_picture(small, {});
  return score(squared_error(shrunk, target), target.width, target.height);
}

/// The score that a result's shapes have where they are drawn at twice the size.
double score_of_doubled(const Run& run, const Image& large, const Options& options) {
  Result doubled = run.result;
  doubled.width *= 2, doubled.height *= 2;
  for (Step& step : doubled.steps) {
    for (Point& point : step.shape.points) point = {2 * point.x, 2 * point.y};
    step.shape.width *= 2;
  }
  return score(squared_error(draw(doubled), compute_picture(large, options)), doubled.width, doubled.height);
}

double per_cent_above(double value, double base) { return 100 * (value / base - 1); }

void sizes(const Bench& bench) {
  fmt::print(
      "\n200 shapes, searched at 256 px and at 512 px, default effort. Scores compare only where both results are seen at one "
      "size:\n"
      "  at 256 px: what was found at 512 px, shrunk, against the 256 px target\n"
      "  at 512 px: what was found at 256 px, its shapes drawn at twice the size, against the 512 px target\n"
      "Per cent: how much the score of the 512 px search is above that of the 256 px search (below: better). \"own\": each in "
      "its own\n"
      "pixels, where 512 px hold detail that 256 px do not, and that 200 shapes draw at no size.\n");
  fmt::print("{:<10}{:<9}|{:>8}{:>8}{:>8} |{:>8}{:>8}{:>8} |{:>8} |{:>13} |\n", "picture", "kinds", "at 256", "of 512", "",
             "at 512", "of 256", "", "own", "CPU-s");
  for (const char* name : {"raccoon", "astronaut", "coffee", "monalisa"})
    for (const char* kinds : {"triangle", "mixed"}) {
      auto small = bench.picture(fmt::format("{}256", name)), large = bench.picture(fmt::format("{}512", name));
      if (!small || !large) continue;
      Options options = bench.options(kinds, 200);
      Run of_256 = timed(*small, options);
      options.compute_size = 512;
      Run of_512 = timed(*large, options);
      const double own_256 = of_256.after(200).score, own_512 = of_512.after(200).score;
      const double shrunk = score_at_256(of_512, *small), doubled = score_of_doubled(of_256, *large, options);
      fmt::print("{:<10}{:<9}|{:>8.4f}{:>8.4f}{:>+7.1f}% |{:>8.4f}{:>8.4f}{:>+7.1f}% |{:>+7.1f}% |{:>6.2f}{:>7.2f} |", name,
                 kinds, own_256, shrunk, per_cent_above(shrunk, own_256), own_512, doubled, per_cent_above(own_512, doubled),
                 per_cent_above(own_512, own_256), of_256.after(200).cpu, of_512.after(200).cpu);
      for (const Peer& peer : kPrimitive512)
        if (!std::strcmp(peer.picture, name) && !std::strcmp(peer.kinds, kinds))
          fmt::print(" primitive at 512 px {:.4f} in {:.0f} CPU-s", peer.score_200, peer.cpu_200);
      fmt::print("\n");
      std::fflush(stdout);
    }
}

/// Scores with and without annealing, after as many candidates.
void annealing(const Bench& bench) {
  constexpr int kSeeds = 3;
  double logarithms = 0;
  int runs = 0;
  fmt::print("\n200 mixed shapes at 256 px, --anneal against none, {} seeds: score, CPU-s\n", kSeeds);
  for (const char* name : {"raccoon", "astronaut", "coffee", "monalisa"}) {
    auto image = bench.picture(fmt::format("{}256", name));
    if (!image) continue;
    double sums[2][2] = {};
    for (int seed = 0; seed < kSeeds; ++seed) {
      double scores[2];
      for (int anneal : {0, 1}) {
        Options options = bench.options("mixed", 200);
        options.anneal = anneal != 0, options.seed = uint64_t(seed);
        const Result result = run(*image, options);
        scores[anneal] = score(result);
        sums[anneal][0] += scores[anneal] / kSeeds, sums[anneal][1] += result.cpu_seconds / kSeeds;
      }
      logarithms += std::log(scores[1] / scores[0]);
      ++runs;
    }
    fmt::print("{:<10} {:.4f} {:.2f} | annealed {:.4f} ({:+.1f}%) {:.2f}\n", name, sums[0][0], sums[0][1], sums[1][0],
               per_cent_above(sums[1][0], sums[0][0]), sums[1][1]);
    std::fflush(stdout);
  }
  if (runs > 0) fmt::print("mean of all: {:+.2f}%\n", 100 * (std::exp(logarithms / runs) - 1));
}

/// Seconds of a search on one thread while as many others run beside it as make `count`: what the machine's cores can give at
/// once.
double side_by_side(const Image& image, const Options& options, int count) {
  std::vector<double> seconds(size_t(count), 0.0);
  {
    std::vector<std::jthread> searches;
    for (double& one : seconds) searches.emplace_back([&] { one = run(image, options).seconds; });
  }
  return std::accumulate(seconds.begin(), seconds.end(), 0.0) / count;
}

/// Wall times of several rounds, in which each number of threads has its turn, so that no slow minute hits one alone. The best of
/// each is what the machine does when nothing else runs; CPU-s over threads times wall says how much of it there was.
void threads(const Bench& bench) {
  auto image = bench.picture("raccoon256");
  if (!image) return;
  constexpr int kCounts[] = {1, 2, 4}, kRounds = 15;
  const int64_t shapes = bench.quick ? 200 : 1000;
  Result best[std::size(kCounts)];
  std::vector<double> ratios;
  double beside_others = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    double wall[std::size(kCounts)];
    for (size_t i = 0; i < std::size(kCounts); ++i) {
      Options options = bench.options("mixed", shapes);
      options.threads = kCounts[i];
      const Result result = run(*image, options);
      wall[i] = result.seconds;
      if (round == 0 || result.seconds < best[i].seconds) best[i] = result;
    }
    ratios.push_back(wall[0] / wall[std::size(kCounts) - 1]);
    Options alone = bench.options("mixed", shapes);
    alone.threads = 1;
    beside_others = std::min(beside_others, side_by_side(*image, alone, 4));
  }
  fmt::print("\n{} mixed shapes, raccoon, best wall time of {} rounds:\n", shapes, kRounds);
  for (size_t i = 0; i < std::size(kCounts); ++i)
    fmt::print("{} thread(s) {:.3f} s, {:.2f}x; {:.2f} CPU-s, {:.0f} % of the threads' time\n", kCounts[i], best[i].seconds,
               best[0].seconds / best[i].seconds, best[i].cpu_seconds,
               100 * best[i].cpu_seconds / (best[i].seconds * kCounts[i]));
  std::sort(ratios.begin(), ratios.end());
  fmt::print("4 against 1: {:.2f}x (best against best); round by round {:.2f} to {:.2f}, median {:.2f}\n",
             best[0].seconds / best[std::size(kCounts) - 1].seconds, ratios.front(), ratios.back(), ratios[kRounds / 2]);
  fmt::print("four searches of one thread each, side by side: {:.2f}x what one alone does\n",
             4 * best[0].seconds / beside_others);
}

/// Searches on both devices; the shapes must be the same.
void against_cpu(const Bench& bench, const std::string& name, Options options) {
  auto image = bench.picture(name);
  if (!image) return;
  const Run on_gpu = timed(*image, options);
  const int64_t shapes = int64_t(on_gpu.result.steps.size());
  std::string compared = "not compared";
  if (options.compute_size <= 512) {
    options.gpu = nullptr;
    const Run on_cpu = timed(*image, options);
    compared = fmt::format("{} the CPU's, which took {:.2f} s with {} thread(s)",
                           on_cpu.result.steps == on_gpu.result.steps ? "equal to" : "DIFFERS FROM", on_cpu.result.seconds,
                           bench.threads);
  }
  fmt::print(
      "{:<13}{:>6} px{:>7} shapes  score {:.4f}  {:>7.3f} s ({:.3f} ms a shape, first after {:.3f} s), {:.1f} M candidates/s, "
      "{}\n",
      name, on_gpu.result.width, shapes, on_gpu.moments.back().score, on_gpu.result.seconds,
      1e3 * on_gpu.result.seconds / double(shapes), on_gpu.moments.front().wall,
      double(on_gpu.result.candidates) / on_gpu.result.seconds * 1e-6, compared);
  std::fflush(stdout);
}

void on_gpu(Bench bench, const std::string& device) {
  const DeviceChoice choice = choose_device(device);
  if (choice.kind != DeviceChoice::Kind::Cuda) fail(Code::InvalidArgument, "--device {} is no GPU", device);
  const auto begin = std::chrono::steady_clock::now();
  bench.gpu = open_gpu(choice.ordinal);
  fmt::print(
      "\n{}: {}; opening it and compiling the kernels took {:.2f} s. Whole runs, shrinking the picture and uploads included.\n",
      choice.text(), cuda::devices().at(size_t(choice.ordinal)).name,
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  for (const char* picture : {"raccoon", "astronaut", "coffee", "monalisa"})
    for (const char* kinds : {"triangle", "mixed", "all"}) {
      fmt::print("{:<9}", kinds);
      against_cpu(bench, fmt::format("{}256", picture), bench.options(kinds, bench.quick ? 200 : 1000));
    }
  fmt::print("mixed, --climbers 16 --candidates 192 --mutations 120, and --anneal:\n");
  for (const char* picture : {"raccoon", "astronaut", "coffee", "monalisa"}) {
    Options options = bench.options("mixed", bench.quick ? 200 : 1000);
    options.climbers = 16, options.candidates = 192, options.mutations = 120;
    against_cpu(bench, fmt::format("{}256", picture), options);
    options = bench.options("mixed", bench.quick ? 200 : 1000);
    options.anneal = true;
    against_cpu(bench, fmt::format("{}256", picture), options);
  }
  fmt::print("{:<9}", "mixed");
  Options large = bench.options("mixed", 1000);
  large.compute_size = 512;
  against_cpu(bench, "raccoon512", large);
  // The pictures are smaller: one is enlarged, without new detail.
  if (auto image = bench.picture("raccoon512")) {
    const int64_t side = image->pixels.dim(0);
    Image enlarged{Tensor(DType::f32, {2 * side, 2 * side, 3}), {}};
    for (int64_t i = 0; i < 4 * side * side; ++i)
      for (int64_t c = 0; c < 3; ++c)
        enlarged.pixels.f32()[size_t(3 * i + c)] =
            image->pixels.f32()[size_t(3 * (i / (2 * side) / 2 * side + i % (2 * side) / 2) + c)];
    Options options = bench.options("mixed", bench.quick ? 1000 : 10000);
    options.compute_size = 1024;
    const Run run = timed(enlarged, options);
    fmt::print("raccoon enlarged to 1024 px, {} mixed shapes: score {:.4f}, {:.2f} s\n", run.result.steps.size(),
               run.moments.back().score, run.result.seconds);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  Bench bench;
  std::string device = "cpu";
  bool scaling = false;  // 4 threads against 1, and nothing else
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--quick")
      bench.quick = true;
    else if (word == "--scaling")
      scaling = true;
    else if (word == "--images" && i + 1 < argc)
      bench.images = argv[++i];
    else if (word == "--threads" && i + 1 < argc)
      bench.threads = std::atoi(argv[++i]);
    else if (word == "--device" && i + 1 < argc)
      device = argv[++i];
    else
      bench.filter = word;
  }
  fmt::print("This machine: {}. Peers: the peers' table, EPYC Zen 3, AVX2.\n", machine());
  if (device != "cpu") {
    on_gpu(bench, device);
    return 0;
  }
  if (!scaling) {
    against_primitive(bench);
    against_node(bench);
    sizes(bench);
    annealing(bench);
  }
  threads(bench);
  return 0;
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
