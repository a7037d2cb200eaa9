// Writes the pictures of docs/gallery that shapes are found for: each is a formula. `./dev gallery` runs it.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "io/image.h"

namespace sinter {
namespace {

struct Colour {
  double r = 0, g = 0, b = 0;
};
Colour operator*(Colour c, double s) { return {c.r * s, c.g * s, c.b * s}; }
Colour mix(Colour a, Colour b, double t) {
  t = std::clamp(t, 0.0, 1.0);
  return {a.r + (b.r - a.r) * t, a.g + (b.g - a.g) * t, a.b + (b.b - a.b) * t};
}
double smooth(double low, double high, double x) {
  double t = std::clamp((x - low) / (high - low), 0.0, 1.0);
  return t * t * (3 - 2 * t);
}

double noise(double x, int seed) {
  auto value = [seed](double i) {
    double v = std::sin(i * 127.1 + seed * 311.7) * 43758.5453;
    return v - std::floor(v);
  };
  double i = std::floor(x), t = smooth(0, 1, x - i);
  return value(i) * (1 - t) + value(i + 1) * t;
}
double ridge(double x, int seed) {
  double sum = 0, weight = 0.5;
  for (int octave = 0; octave < 6; ++octave, x *= 2.1, weight *= 0.48) sum += weight * noise(x, seed + octave);
  return sum;
}

/// Mountains before the sun, and a lake. u to the right and v downwards, both 0..1.
Colour evening(double u, double v) {
  constexpr double kShore = 0.68;
  const bool lake = v > kShore;
  double ripple = lake ? 0.012 * std::sin(260 * std::pow(v - kShore + 0.02, 0.6)) * (1 + noise(u * 30 + v * 90, 9)) : 0;
  double x = u + ripple, y = lake ? 2 * kShore - v * 1.02 + 0.012 : v;
  Colour sky = mix({0.16, 0.20, 0.42}, {0.98, 0.62, 0.30}, smooth(0.0, 0.62, y));
  double away = std::hypot((x - 0.64) * 1.5, y - 0.42);
  sky = mix(sky, {1.0, 0.86, 0.52}, 0.8 * std::exp(-away * away * 22));
  sky = mix({1.0, 0.97, 0.82}, sky, smooth(0.070, 0.080, away));
  const std::array<Colour, 3> hills = {Colour{0.52, 0.36, 0.46}, {0.30, 0.22, 0.36}, {0.11, 0.10, 0.20}};
  Colour out = sky;
  for (int i = 0; i < 3; ++i) {
    double top = 0.52 + 0.07 * i - (0.30 - 0.06 * i) * (ridge(x * (2.2 + i) + 3.1 * i, 20 * i + 3) - 0.25);
    out =
        mix(out, mix(hills[size_t(i)], sky, 0.25 * (1 - i / 2.0) * smooth(top, kShore, y)), smooth(top - 0.002, top + 0.002, y));
  }
  return lake ? mix(out, {0.10, 0.12, 0.24}, 0.25 + 0.4 * (v - kShore)) : out;
}

/// Three balls on a chequered floor, with a lamp at the upper left.
Colour balls(double u, double v) {
  struct Ball {
    double x, y, z, radius;
    Colour colour;
  };
  constexpr std::array<Ball, 3> kBalls = {Ball{-1.15, 0.0, 4.2, 1.0, {0.86, 0.20, 0.16}},
                                          {1.0, -0.3, 3.4, 0.7, {0.15, 0.45, 0.80}},
                                          {0.35, 0.25, 5.8, 1.25, {0.95, 0.75, 0.20}}};
  const double norm = std::sqrt(0.41 + 0.64 + 0.36), lx = -0.64 / norm, ly = 0.8 / norm, lz = -0.6 / norm;
  double dx = (u - 0.5) * 1.5, dy = 0.42 - v, dz = 1.25, length = std::sqrt(dx * dx + dy * dy + dz * dz);
  dx /= length, dy /= length, dz /= length;
  auto hit = [&](const Ball& s, double ox, double oy, double oz, double ex, double ey, double ez) {
    double px = ox - s.x, py = oy - s.y, pz = oz - s.z, b = px * ex + py * ey + pz * ez;
    double root = b * b - (px * px + py * py + pz * pz - s.radius * s.radius);
    return root < 0 ? -1.0 : -b - std::sqrt(root);
  };
  double nearest = 1e9;
  const Ball* ball = nullptr;
  for (const Ball& s : kBalls)
    if (double t = hit(s, 0, 0.6, 0, dx, dy, dz); t > 0 && t < nearest) nearest = t, ball = &s;
  Colour wall = mix({0.80, 0.84, 0.86}, {0.48, 0.56, 0.64}, v * 1.6);
  if (!ball && dy >= -0.02) return wall;
  if (!ball) {
    nearest = -1.6 / dy;  // the floor is at -1
    double x = dx * nearest, z = dz * nearest;
    bool dark = (int(std::floor(x)) + int(std::floor(z))) % 2 != 0;
    Colour floor = dark ? Colour{0.36, 0.30, 0.28} : Colour{0.88, 0.84, 0.76};
    double light = 1;
    for (const Ball& s : kBalls)
      if (hit(s, x, -1, z, lx, ly, lz) > 0) light = 0.45;
    return mix(floor * light, wall, smooth(6, 30, z));
  }
  double nx = (dx * nearest - ball->x) / ball->radius, ny = (0.6 + dy * nearest - ball->y) / ball->radius,
         nz = (dz * nearest - ball->z) / ball->radius, facing = nx * lx + ny * ly + nz * lz;
  double shine = std::pow(std::max(0.0, 2 * facing * -(nx * dx + ny * dy + nz * dz) + (dx * lx + dy * ly + dz * lz)), 30);
  Colour lit = ball->colour * (0.28 + 0.78 * std::max(0.0, facing));
  return mix(lit, {1, 1, 1}, 0.85 * shine);
}

/// A blossom of two rings of petals.
Colour blossom(double u, double v) {
  double x = (u - 0.5) * 1.5, y = v - 0.47, radius = std::hypot(x, y), angle = std::atan2(y, x);
  Colour out = mix({0.13, 0.30, 0.20}, {0.42, 0.60, 0.30}, 0.5 + 0.5 * std::sin(9 * x + 4 * noise(6 * v + 3 * x, 4)) * (1 - v));
  double stem = std::fabs(x - 0.05 * std::sin(4 * y));
  if (y > 0) out = mix({0.20, 0.46, 0.16}, out, smooth(0.014, 0.022, stem));
  for (int ring = 0; ring < 2; ++ring) {
    double turn = angle + ring * 0.39,
           reach = (0.40 - 0.12 * ring) * (0.62 + 0.38 * std::pow(std::fabs(std::cos(4 * turn)), 0.6));
    Colour petal = mix({0.98, 0.86, 0.90}, ring ? Colour{0.90, 0.30, 0.50} : Colour{0.72, 0.16, 0.42}, radius / reach);
    petal = petal * (0.78 + 0.22 * std::pow(std::fabs(std::cos(4 * turn)), 0.4));
    out = mix(petal, out, smooth(reach - 0.004, reach + 0.004, radius));
  }
  Colour heart = mix({0.98, 0.84, 0.30}, {0.62, 0.36, 0.08}, radius / 0.085 + 0.3 * noise(angle * 9 + radius * 60, 2));
  return mix(heart, out, smooth(0.080, 0.088, radius));
}

Tensor drawn(Colour (*scene)(double, double)) {
  constexpr int64_t kWidth = 480, kHeight = 320, kGrid = 3;
  Tensor out(DType::f32, {kHeight, kWidth, 3});
  for (int64_t y = 0; y < kHeight; ++y)
    for (int64_t x = 0; x < kWidth; ++x) {
      Colour sum;
      for (int64_t k = 0; k < kGrid * kGrid; ++k) {
        Colour c = scene((double(x) + (double(k % kGrid) + 0.5) / kGrid) / kWidth,
                         (double(y) + (double(k / kGrid) + 0.5) / kGrid) / kHeight);
        sum = {sum.r + c.r, sum.g + c.g, sum.b + c.b};
      }
      float* to = &out.f32()[size_t(y * kWidth + x) * 3];
      sum = sum * (1.0 / (kGrid * kGrid));
      to[0] = float(sum.r), to[1] = float(sum.g), to[2] = float(sum.b);
    }
  return out;
}

}  // namespace
}  // namespace sinter

int main(int count, char** words) {
  using namespace sinter;
  if (count != 2) {
    fmt::print(stderr, "usage: gallery_scenes FOLDER\n");
    return 2;
  }
  try {
    std::filesystem::path folder = words[1];
    write_image(folder / "evening.jpg", drawn(evening));
    write_image(folder / "balls.jpg", drawn(balls));
    write_image(folder / "blossom.jpg", drawn(blossom));
  } catch (const Error& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
