#include <algorithm>
#include <chrono>
#include <ctime>

#include "base/error.h"
#include "shapes/run.h"
#include "shapes/search.h"
#include "shapes/shapes.h"

namespace sinter::shapes {

namespace {

/// Attempts with other random numbers before a search ends for want of a shape that helps.
constexpr uint32_t kAttempts = 4;
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

/// The size that the next shape will probably have: the mean of the last ones', a function of the steps so that resuming a
/// result goes on as if it had never been interrupted.
int32_t typical_extent(const std::vector<Step>& steps, int32_t longer_side) {
  constexpr size_t kLooksBack = 16;
  int64_t sum = 0, count = 0;
  for (size_t i = steps.size() > kLooksBack ? steps.size() - kLooksBack : 0; i < steps.size(); ++i, ++count)
    sum += extent(steps[i].shape);
  // Few shapes say little: the picture's half counts for the missing ones.
  sum += (int64_t(kLooksBack) - count) * (longer_side / 4);
  return int32_t(std::max<int64_t>(sum / int64_t(kLooksBack), kUnitsPerPixel));
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

/// What makes the drawn picture better, with real rounding; none where several attempts found nothing.
std::optional<Shape> next_shape(Search& search, const Canvas& canvas, const Result& result) {
  const int32_t longer = std::max(result.width, result.height) * kUnitsPerPixel;
  for (uint32_t attempt = 0; attempt < kAttempts; ++attempt) {
    auto found = search.find(uint32_t(result.steps.size()), attempt, typical_extent(result.steps, longer));
    if (found && canvas.exact_change(*found) < 0) return found;
  }
  return std::nullopt;
}

}  // namespace

Result run(const Image& picture, const Options& options, const Result* start, const Callback& callback) {
  return run_with(widest_simd(), picture, options, start, callback);
}

Result run_with(Simd simd, const Image& picture, const Options& options, const Result* start, const Callback& callback) {
  check(options);
  const auto begin = Clock::now();
  const double cpu_begin = cpu_seconds();
  Pixels target = compute_picture(picture, options);
  Result result = beginning(picture, target, options, start);
  const double seconds_before = result.seconds, cpu_before = result.cpu_seconds;
  const int64_t candidates_before = result.candidates;
  ThreadPool pool(options.threads);
  Canvas canvas(std::move(target), result.fill);
  result.start_error = canvas.error();
  for (const Step& step : result.steps) canvas.draw(step.shape, pool);
  if (start && canvas.error() != start->error())
    fail(Code::InvalidArgument, "the result to go on from was made from another picture: its error is {}, with this picture {}",
         start->error(), canvas.error());
  Search search(canvas, options, pool, simd);

  Progress progress{0, options.shapes, 0, false, &result};
  int previews = 0;
  auto report = [&](bool last) {
    progress.seconds = seconds_since(begin);
    result.seconds = seconds_before + progress.seconds;
    result.cpu_seconds = cpu_before + cpu_seconds() - cpu_begin;
    result.candidates = candidates_before + search.scored();
    progress.preview = last || progress.done * kPreviews >= (previews + 1) * options.shapes;
    if (progress.preview) previews = int(progress.done * kPreviews / options.shapes);
    return !callback || callback(progress);
  };
  const double target_error = options.target_error;
  auto reason_to_stop = [&]() -> std::optional<Stop> {
    if (target_error > 0 && score(canvas.error(), canvas.width(), canvas.height()) <= target_error) return Stop::target_error;
    if (progress.done == options.shapes) return Stop::shapes;
    if (options.time_budget > 0 && progress.seconds >= options.time_budget) return Stop::time_budget;
    return std::nullopt;
  };
  std::optional<Stop> stop = reason_to_stop();
  bool told_the_last = false;
  while (!stop) {
    std::optional<Shape> found = next_shape(search, canvas, result);
    if (!found) {
      stop = Stop::no_improvement;
      break;
    }
    canvas.draw(*found, pool);
    result.steps.push_back({*found, canvas.error()});
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
