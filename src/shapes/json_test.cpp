#include "shapes/json.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "refusal.h"
#include "shapes/render_test_help.h"

using namespace sinter;
using namespace sinter::shapes;

namespace {

using nlohmann::json;

std::string why_refused(const json& value) {
  return refusal([&] { from_json(value.dump(), "f.json"); });
}

}  // namespace

TEST_CASE("a result survives the way to JSON and back") {
  for (uint32_t seed = 1; seed < 20; ++seed) {
    Result result = random_result(200, 133, 5, seed);
    result.source_width = 3000;
    result.source_height = 2000;
    result.stop = Stop(seed % 5);
    result.seconds = 1.25;
    result.cpu_seconds = 4.5;
    Result back = from_json(to_json(result), "f.json");
    CHECK(back.steps == result.steps);
    CHECK(back.width == 200);
    CHECK(back.height == 133);
    CHECK(back.source_width == 3000);
    CHECK(back.source_height == 2000);
    CHECK(back.fill == result.fill);
    CHECK(back.start_error == result.start_error);
    CHECK(back.stop == result.stop);
    CHECK(back.candidates == result.candidates);
    CHECK(back.seconds == 1.25);
    CHECK(back.cpu_seconds == 4.5);
    CHECK(to_json(back) == to_json(result));
  }
}

TEST_CASE("JSON that is not a result is refused, naming the place, what was expected and what was found") {
  json good = json::parse(to_json(random_result(100, 80, 1, 2)));
  REQUIRE(why_refused(good) == "accepted");
  struct Damage {
    const char* message;
    std::function<void(json&)> make;
  };
  for (const Damage& damage : {
           Damage{"f.json: not the JSON of an earlier result: expected \"format\"", [](json& j) { j["format"] = "other"; }},
           Damage{"f.json: not the JSON of an earlier result: expected \"format\"", [](json& j) { j = json::array(); }},
           Damage{"f.json: written by a later version of sinter: version 2", [](json& j) { j["version"] = 2; }},
           Damage{"f.json: \"shapes\" is missing", [](json& j) { j.erase("shapes"); }},
           Damage{"f.json: there is no member \"more\"", [](json& j) { j["more"] = 1; }},
           Damage{"f.json.width: expected a whole number from 1 to 2048, found 2049", [](json& j) { j["width"] = 2049; }},
           Damage{"f.json.height: expected a whole number from 1 to 2048, found -1", [](json& j) { j["height"] = -1; }},
           Damage{"f.json.fill: expected a colour as \"#rrggbb\", found \"red\"", [](json& j) { j["fill"] = "red"; }},
           Damage{"f.json.seconds: expected seconds, 0 or more, found null", [](json& j) { j["seconds"] = nullptr; }},
           Damage{"f.json.stop: expected why the search ended, found \"bored\"", [](json& j) { j["stop"] = "bored"; }},
           Damage{"f.json.shapes[3].kind: expected the name of a kind of shape, found \"star\"",
                  [](json& j) { j["shapes"][3]["kind"] = "star"; }},
           Damage{"f.json.shapes[0].alpha: expected a whole number from 1 to 255, found 0",
                  [](json& j) { j["shapes"][0]["alpha"] = 0; }},
           Damage{"f.json.shapes[0].points: expected a list of 2 to 6 values", [](json& j) { j["shapes"][0]["points"] = 7; }},
           Damage{"f.json.shapes[0].points[1]: expected a list of 2 to 2 values",
                  [](json& j) {
                    j["shapes"][0]["points"][1] = {1, 2, 3};
                  }},
           Damage{"f.json.shapes[0].points[1][0]: expected a whole number from -131072 to 131072, found 1.5",
                  [](json& j) { j["shapes"][0]["points"][1][0] = 1.5; }},
           Damage{"f.json.shapes[0]: a triangle has 2 points", [](json& j) { j["shapes"][0]["points"].erase(0); }},
           Damage{"f.json.shapes[0]: there is no member \"angle\"", [](json& j) { j["shapes"][0]["angle"] = 0; }},
           Damage{"f.json.shapes[2]: \"angle\" is missing", [](json& j) { j["shapes"][2].erase("angle"); }},
           Damage{"f.json.shapes[8].width: expected a whole number from 1 to 4096, found 0",
                  [](json& j) { j["shapes"][8]["width"] = 0; }},
           Damage{"f.json.shapes[1].error: expected at most the error before it",
                  [](json& j) { j["shapes"][1]["error"] = 1u << 31; }},
       }) {
    json bad = good;
    damage.make(bad);
    CAPTURE(damage.message);
    CHECK_MESSAGE(why_refused(bad).starts_with(damage.message), why_refused(bad));
  }
}

TEST_CASE("text that ends early, nests deep or is no JSON at all is refused") {
  std::string text = to_json(random_result(100, 80, 1, 2));
  for (size_t length = 0; length + 2 < text.size(); length += 13)
    CHECK(refusal([&] { from_json(text.substr(0, length), "f.json"); }).starts_with("f.json: not the JSON of an earlier result"));
  CHECK(refusal([] { from_json(std::string(1'000'000, '['), "f.json"); }).starts_with("f.json: not the JSON"));
  CHECK(refusal([] { from_json("\xff\xfe", "f.json"); }).starts_with("f.json: not the JSON"));
}
