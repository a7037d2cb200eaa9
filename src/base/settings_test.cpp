#include "base/settings.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/error.h"

using namespace sinter;

TEST_CASE("settings are sorted, ours by name, and each says what it means") {
  CHECK(std::ranges::is_sorted(settings(), {}, &Setting::name));
  for (const Setting& s : settings()) {
    CHECK(s.name.starts_with("SINTER_"));
    CHECK(!s.meaning.empty());
  }
}

TEST_CASE("a variable that the table lacks cannot be read") {
  CHECK_THROWS_WITH_AS(setting("SINTER_NO_SUCH_THING"), "settings.list lacks SINTER_NO_SUCH_THING", Error);
}
