#include "pipelines/picture_names.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"

namespace sinter {
namespace {

constexpr const char* kEndings[] = {".png", ".jpg", ".jpeg", ".webp"};

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size()) text.replace(at, what.size(), by);
  return text;
}

/// For one axis: where the new pixel `i` begins and what weights the old ones have in it.
struct Span {
  int64_t first;
  std::vector<float> weights;
};

std::vector<Span> spans(int64_t from, int64_t to) {
  std::vector<Span> out;
  double ratio = double(from) / double(to), reach = std::max(1.0, ratio);
  for (int64_t i = 0; i < to; ++i) {
    double middle = (double(i) + 0.5) * ratio - 0.5;
    int64_t first = std::max<int64_t>(0, int64_t(std::ceil(middle - reach))),
            last = std::min(from - 1, int64_t(std::floor(middle + reach)));
    Span span{first, {}};
    double sum = 0;
    for (int64_t j = first; j <= last; ++j) {
      double weight = std::max(0.0, 1 - std::fabs(double(j) - middle) / reach);
      span.weights.push_back(float(weight));
      sum += weight;
    }
    for (float& w : span.weights) w = float(w / sum);
    out.push_back(std::move(span));
  }
  return out;
}

}  // namespace

void check_picture_name(const std::string& pattern) {
  std::filesystem::path path(pattern);
  std::string ending = path.extension().string();
  if (std::none_of(std::begin(kEndings), std::end(kEndings), [&](const char* e) { return ending == e; }))
    fail(Code::InvalidArgument, "pictures are written as .png, .jpg, .jpeg or .webp, not as '{}'", pattern);
  check_can_write(path, "--out");
}

void check_can_write(const std::filesystem::path& path, const std::string& option) {
  if (path.has_parent_path() && !std::filesystem::is_directory(path.parent_path()))
    fail(Code::NotFound, "the folder '{}' of {} does not exist", path.parent_path().string(), option);
  constexpr size_t kNameLimit = 255;  // bytes, on every file system we write to
  if (path.filename().string().size() > kNameLimit)
    fail(Code::InvalidArgument, "the name given by {} has {} bytes; file names have at most {}", option,
         path.filename().string().size(), kNameLimit);
  remove_stale_temporaries(path.has_parent_path() ? path.parent_path() : ".");
  AtomicFile probe(path);  // rights say little: file systems may be read-only, full or out of names
}

std::filesystem::path next_picture_name(const std::string& pattern, uint64_t seed, size_t made, bool several) {
  std::string name = replaced(pattern, "{seed}", std::to_string(seed));
  if (name.find("{index}") == std::string::npos) {
    if (!several) return name;
    std::filesystem::path path(name);
    return path.replace_filename(fmt::format("{}_{:05}{}", path.stem().string(), made + 1, path.extension().string()));
  }
  for (int index = 1;; ++index) {
    std::filesystem::path path = replaced(name, "{index}", fmt::format("{:05}", index));
    if (!std::filesystem::exists(path)) return path;
  }
}

Tensor resized(const Tensor& pixels, int64_t height, int64_t width) {
  if (pixels.dim(0) == height && pixels.dim(1) == width) return pixels;
  std::vector<Span> rows = spans(pixels.dim(0), height), columns = spans(pixels.dim(1), width);
  int64_t old_width = pixels.dim(1);
  Tensor wide(DType::f32, {height, old_width, 3}), out(DType::f32, {height, width, 3});
  for (int64_t y = 0; y < height; ++y)
    for (size_t k = 0; k < rows[size_t(y)].weights.size(); ++k)
      for (int64_t i = 0; i < old_width * 3; ++i)
        wide.f32()[size_t(y * old_width * 3 + i)] +=
            rows[size_t(y)].weights[k] * pixels.f32()[size_t((rows[size_t(y)].first + int64_t(k)) * old_width * 3 + i)];
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (size_t k = 0; k < columns[size_t(x)].weights.size(); ++k)
        for (int64_t c = 0; c < 3; ++c)
          out.f32()[size_t((y * width + x) * 3 + c)] +=
              columns[size_t(x)].weights[k] * wide.f32()[size_t((y * old_width + columns[size_t(x)].first + int64_t(k)) * 3 + c)];
  return out;
}

}  // namespace sinter
