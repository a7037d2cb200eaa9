#include "cli/json_output.h"

#include <nlohmann/json.hpp>

#include "cli/output.h"

namespace sinter {

void print_json(const nlohmann::ordered_json& object) {
  print(object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace sinter
