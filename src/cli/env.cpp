#include <nlohmann/json.hpp>

#include "base/settings.h"
#include "cli/arguments.h"
#include "cli/json_output.h"
#include "cli/output.h"

namespace sinter {
namespace {

int run_env(Arguments arguments) {
  Options options(env_verb);
  bool json = false;
  options.add_json(json);
  options.parse_arguments(arguments);

  nlohmann::json object = nlohmann::json::object();
  std::vector<std::vector<std::string>> rows = {{"variable", "value", "meaning"}};
  for (const Setting& s : settings()) {
    auto value = setting(s.name);
    object[std::string(s.name)] = {{"meaning", s.meaning}, {"value", value ? nlohmann::json(*value) : nlohmann::json()}};
    rows.push_back({std::string(s.name), value.value_or("(not set)"), std::string(s.meaning)});
  }
  if (json)
    print_json(object);
  else
    print(table(rows));
  return kSuccess;
}

}  // namespace

const Verb env_verb = {.name = "env", .summary = "The environment variables that the program reads", .run = run_env};

}  // namespace sinter
