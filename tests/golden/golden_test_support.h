#pragma once
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "golden.h"
#include "golden/report.h"

namespace sinter::golden {

/// Runs a check as a test and names every case that is not right; skips by name where the file is absent.
inline void expect_golden(const std::string& file, const std::function<void(const std::string&, GoldenReport&)>& check) {
  auto directory = golden_folder();
  if (!directory || !std::filesystem::exists(*directory / file)) {
    MESSAGE("skipped: golden data " << file << " not found");
    return;
  }
  GoldenReport report;
  check(directory->string(), report);
  CHECK(report.cases.size() > 0);
  double worst = 0;
  for (const GoldenCase& c : report.cases) {
    if (c.tolerance > 0) worst = std::max(worst, c.error / c.tolerance);
    CHECK_MESSAGE(c.ok, c.name << ": error " << c.error << ", tolerance " << c.tolerance << " " << c.note);
  }
  MESSAGE(file << ": " << report.cases.size() << " cases, the largest error is " << worst << " of its tolerance");
}

}  // namespace sinter::golden
