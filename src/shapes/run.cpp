#include <algorithm>
#include <chrono>
#include <ctime>

#include "base/error.h"
#include "shapes/gpu_search.h"
#include "shapes/run.h"
#include "shapes/search.h"
#include "shapes/shapes.h"

namespace sinter::shapes {

namespace {

constexpr int kPreviews = 20;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

Color mean_color(const Pixels& pixels) {
  int64_t sums[kChannels] = {};
  for (size_t i = 0; i < pixels.rgb.size(); ++i) sums[i % kChannels] += pixels.rgb[i];
  Color mean{};
  for (size_t c = 0; c < kChannels; ++c) mean[c] = uint8_t(round_div(sums[c], int64_t(pixels.rgb.size() / kChannels)));
  return mean;
}

Result beginning(const Image& picture, const Pixels& target, const Options& options, const Result* start) {
  Result result;
  if (start) {
    if (start->width != target.width || start->height != target.height)
      fail(Code::InvalidArgument,
           "the result to go on from is for a compute picture of {} x {}, but this picture gives {} x {}; give the same picture "
           "and compute size",
           start->width, start->height, target.width, target.height);
    for (const Step& step : start->steps) check(step.shape);
    result = *start;
  } else {
    result.fill = options.fill_auto ? mean_color(target) : options.fill;
  }
  result.width = target.width, result.height = target.height;
  result.source_width = int(picture.pixels.dim(1)), result.source_height = int(picture.pixels.dim(0));
  result.stop = Stop::shapes;
  return result;
}

}  // namespace

Result run(const Image& picture, const Options& options, const Result* start, const Callback& callback) {
  if (!options.gpu) return run_with(widest_simd(), picture, options, start, callback);
  auto make = [&](const Canvas& canvas, uint32_t number, const RecentSizes& sizes) {
    return std::make_unique<GpuSearcher>(machine_of(options.gpu), canvas, options, number, sizes);
  };
  return run_with(make, picture, options, start, callback);
}

Result run_with(Simd simd, const Image& picture, const Options& options, const Result* start, const Callback& callback) {
  auto make = [&](Canvas canvas, uint32_t number, const RecentSizes& sizes) {
    return std::make_unique<CpuSearcher>(std::move(canvas), options, simd, number, sizes);
  };
  return run_with(make, picture, options, start, callback);
}

Result run_with(const MakeSearcher& make, const Image& picture, const Options& options, const Result* start,
                const Callback& callback) {
  check(options);
  const auto begin = Clock::now();
  const double cpu_begin = cpu_seconds();
  Pixels target = compute_picture(picture, options);
  Result result = beginning(picture, target, options, start);
  const double seconds_before = result.seconds, cpu_before = result.cpu_seconds;
  const int64_t candidates_before = result.candidates;
  Canvas canvas(std::move(target), result.fill);
  result.start_error = canvas.error();
  RecentSizes sizes;
  if (start) {
    ThreadPool pool(options.threads);
    for (const Step& step : result.steps) {
      canvas.draw(step.shape, pool);
      sizes.add(step.shape);
    }
    if (canvas.error() != start->error())
      fail(Code::InvalidArgument, "the result to go on from was made from another picture: its error is {}, with this picture {}",
           start->error(), canvas.error());
  }
  const std::unique_ptr<Searcher> searcher = make(std::move(canvas), uint32_t(result.steps.size()), sizes);

  Progress progress{0, options.shapes, 0, false, &result};
  int previews = 0;
  auto report = [&](bool last) {
    progress.seconds = seconds_since(begin);
    result.seconds = seconds_before + progress.seconds;
    result.cpu_seconds = cpu_before + cpu_seconds() - cpu_begin;
    result.candidates = candidates_before + searcher->scored();
    progress.preview = last || progress.done * kPreviews >= (previews + 1) * options.shapes;
    if (progress.preview) previews = int(progress.done * kPreviews / options.shapes);
    return !callback || callback(progress);
  };
  const double target_error = options.target_error;
  auto reason_to_stop = [&]() -> std::optional<Stop> {
    if (target_error > 0 && score(result) <= target_error) return Stop::target_error;
    if (progress.done == options.shapes) return Stop::shapes;
    if (options.time_budget > 0 && progress.seconds >= options.time_budget) return Stop::time_budget;
    return std::nullopt;
  };
  std::optional<Stop> stop = reason_to_stop();
  bool told_the_last = false;
  while (!stop) {
    const std::optional<Step> found = searcher->next();
    if (!found) {
      stop = Stop::no_improvement;
      break;
    }
    result.steps.push_back(*found);
    ++progress.done;
    progress.seconds = seconds_since(begin);
    stop = reason_to_stop();
    told_the_last = stop.has_value();
    if (!report(told_the_last) && !stop) stop = Stop::cancelled;
  }
  result.stop = *stop;
  if (!told_the_last && stop != Stop::cancelled) report(true);
  return result;
}

}  // namespace sinter::shapes
