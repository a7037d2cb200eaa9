#include "shapes/growth.h"

#include <doctest/doctest.h>

#include "refusal.h"
#include "shapes/render_test_help.h"
#include "temporary_folder.h"

using namespace sinter;
using namespace sinter::shapes;

TEST_CASE("a growing picture begins with none, ends with all, and shows every shape while there are few") {
  CHECK(growth_frames(0) == std::vector<int64_t>{0});
  CHECK(growth_frames(3) == std::vector<int64_t>{0, 1, 2, 3});
  for (int64_t shapes : {1, 50, 99, 100, 101, 200, 1000, 12'345, 100'000}) {
    auto counts = growth_frames(shapes);
    CHECK(counts.front() == 0);
    CHECK(counts.back() == shapes);
    CHECK(counts.size() == size_t(std::min<int64_t>(shapes, 100) + 1));
    for (size_t i = 1; i < counts.size(); ++i) CHECK(counts[i] > counts[i - 1]);
  }
}

TEST_CASE("a film whose making is broken off leaves nothing") {
  TemporaryFolder folder;
  ThreadPool pool(1);
  Result result = random_result(40, 30, 2, 1);
  int frames = 0;
  auto stop = [&] {
    if (++frames == 5) fail(Code::Cancelled, "enough");
  };
  CHECK(refusal([&] { write_growth(folder / "a.gif", result, 40, 30, pool, stop); }) == "enough");
  CHECK(std::filesystem::is_empty(folder.path()));
  write_growth(folder / "a.gif", result, 40, 30, pool);
  CHECK(std::filesystem::exists(folder / "a.gif"));
}
