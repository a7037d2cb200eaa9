#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/image.h"
#include "shapes/shape.h"

namespace sinter {
class Cache;
}

namespace sinter::shapes {

using Color = std::array<uint8_t, 3>;

/// The name of a kind, as the command line and JSON write it: "rotated_rectangle".
std::string_view kind_name(Kind kind);
/// "mixed", "all" or names with commas between them ("triangle,ellipse"). Code::InvalidArgument, naming the known ones.
KindSet parse_kinds(std::string_view text);

/// How opaque shapes are: the search picks each shape's best alpha in this range. crispy 0.775..0.925, dreamy 0.35..0.65, blurry
/// 0.15..0.35.
struct AlphaRange {
  uint8_t low = 89, high = 166;
  friend bool operator==(const AlphaRange&, const AlphaRange&) = default;
};
AlphaRange parse_style(std::string_view name);  ///< "crispy", "dreamy" or "blurry"; Code::InvalidArgument

/// An NVIDIA GPU with the search's kernels; any number of runs may use it, one at a time.
class Gpu;
/// Opening takes up to a second, and 3 s more where the kernels must be compiled first: `cache` keeps them; none: they are
/// compiled anew. `ordinal` as CUDA counts devices.
std::shared_ptr<Gpu> open_gpu(int ordinal, Cache* cache = nullptr);

/// What to search, and how hard. The result depends on the picture and these (less threads, gpu and time_budget) alone.
struct Options {
  int64_t shapes = 200;         ///< how many to add, 1..100,000
  KindSet kinds = kMixedKinds;  ///< which kinds to draw from, at least one
  AlphaRange alpha;             ///< low == high: one explicit alpha
  int candidates = 0;           ///< random shapes scored for each shape, 1..1,000,000; 0: the default effort
  int climbers = 0;             ///< best candidates that climb side by side, 1..4,096; 0: the default effort
  int mutations = 0;            ///< changes tried by each climber of the last round, 1..100,000; 0: the default effort
  bool anneal = false;          ///< climbers also take some changes for the worse (docs/shapes.md)
  int compute_size = 256;       ///< longer side of the compute picture, 64..2048; smaller pictures are not enlarged
  bool fill_auto = true;        ///< start from the mean colour, else from `fill`
  Color fill{};                 ///< also what transparent pictures lie on
  uint64_t seed = 0;
  double target_error = 0;   ///< stop as soon as score() is at most this; 0: never
  double time_budget = 0;    ///< stop after so many seconds; 0: never
  int threads = 0;           ///< 0: one for each core
  std::shared_ptr<Gpu> gpu;  ///< where to search; none: on the CPU
};
/// Code::InvalidArgument, naming the option, its range and what was given.
void check(const Options& options);

/// A shape and the error after it.
struct Step {
  Shape shape;
  uint64_t error = 0;  ///< sum over pixels and R, G, B of the squared 8-bit differences
  friend bool operator==(const Step&, const Step&) = default;
};

enum class Stop : uint8_t { shapes, target_error, time_budget, cancelled, no_improvement };

struct Result {
  int width = 0, height = 0;                ///< of the compute picture, which the shapes' coordinates refer to
  int source_width = 0, source_height = 0;  ///< of the picture given
  Color fill{};                             ///< colour of the canvas before the first shape
  uint64_t start_error = 0;                 ///< error of the empty canvas
  std::vector<Step> steps;                  ///< with those of an earlier result first
  Stop stop = Stop::shapes;                 ///< why the search ended
  int64_t candidates = 0;                   ///< shapes scored, here and in the earlier result
  double seconds = 0, cpu_seconds = 0;      ///< spent, here and in the earlier result

  uint64_t error() const { return steps.empty() ? start_error : steps.back().error; }
};

/// primitive's score of an error: the root of the mean squared difference over R, G, B and an alpha that never differs, 0..1.
double score(uint64_t error, int64_t width, int64_t height);
inline double score(const Result& result) { return score(result.error(), result.width, result.height); }

/// What a callback sees; `result` holds the shapes so far.
struct Progress {
  int64_t done = 0, total = 0;  ///< shapes of this run
  double seconds = 0;           ///< of this run
  bool preview = false;         ///< true about 20 times a run, for who draws previews; the last call has it
  const Result* result = nullptr;
};
/// Called after every shape on the thread that called run(). False cancels: run() returns what it has.
using Callback = std::function<bool(const Progress&)>;

/// Approximates a picture with shapes, each placed where it lowers the error most. With `start`, adds options.shapes to an
/// earlier result of the same picture (its fill and size hold; Code::InvalidArgument where the picture's size differs).
/// No step makes the error worse.
Result run(const Image& picture, const Options& options, const Result* start = nullptr, const Callback& callback = {});

/// 8-bit RGB pixels, row by row.
struct Pixels {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;
  friend bool operator==(const Pixels&, const Pixels&) = default;
};

/// The picture that the search approximates: on `options.fill` or on its own mean colour where it is transparent, shrunk
/// (Lanczos, in integers) until its longer side is options.compute_size at most.
Pixels compute_picture(const Image& picture, const Options& options);

/// The canvas of a result at compute size, drawn as the search drew it (docs/shapes.md); its error is result.error().
Pixels draw(const Result& result);
/// Draws one shape on a canvas in the same way.
void draw(Pixels& canvas, const Shape& shape);
/// Sum over pixels and channels of the squared differences. Code::InvalidArgument where the sizes differ.
uint64_t squared_error(const Pixels& a, const Pixels& b);

/// Code::InvalidArgument where a field is outside of what shape.h allows, for shapes from files.
void check(const Shape& shape);

}  // namespace sinter::shapes
