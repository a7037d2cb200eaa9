#include <fmt/format.h>

#include <array>
#include <csignal>
#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/json_output.h"
#include "cli/output.h"
#include "cli/suggest.h"
#include "cli/verb.h"

namespace sinter {

#define SINTER_VERB(name) &name##_verb,
std::span<const Verb* const> verbs() {
  static constexpr std::array kVerbs = {
#include "cli/verbs.list"
  };
  return kVerbs;
}
#undef SINTER_VERB

namespace {

std::string help() {
  std::string text = "Diffusion models, compiled once for this machine.\n\nUsage: sinter VERB [OPTIONS]\n\n";
  for (const Verb* verb : verbs()) text += fmt::format("  {:<12}{}\n", verb->name, verb->summary);
  return text + "\n`sinter VERB --help` lists the options of a verb; `sinter --version` tells the version.\n";
}

const Verb& find_verb(const std::string& name) {
  std::vector<std::string> names;
  for (const Verb* verb : verbs()) {
    if (verb->name == name) return *verb;
    names.emplace_back(verb->name);
  }
  throw UsageError(fmt::format("there is no verb \"{}\"{}; `sinter --help` lists the verbs", name, suggestion(name, names)));
}

int run(Arguments arguments) {
  if (arguments.empty()) {
    print_error(help());
    return kUsage;
  }
  const std::string& first = arguments[0];
  if (first == "--help" || first == "-h") {
    print(help());
    return kSuccess;
  }
  if (first == "--version") {
    print("sinter " SINTER_VERSION "\n");
    return kSuccess;
  }
  try {
    return find_verb(first).run(arguments.subspan(1));
  } catch (const HelpRequest& request) {
    print(request.text);
    return kSuccess;
  }
}

/// Names of kinds of failure, for programs that read our JSON.
std::string_view code_name(Code code) {
  switch (code) {
    case Code::InvalidArgument:
      return "invalid_argument";
    case Code::NotFound:
      return "not_found";
    case Code::Corrupt:
      return "corrupt";
    case Code::Unsupported:
      return "unsupported";
    case Code::OutOfMemory:
      return "out_of_memory";
    case Code::Io:
      return "io";
    case Code::Cancelled:
      return "cancelled";
    case Code::Internal:
      return "internal";
  }
  return "internal";
}

/// People read standard error; a program that asked for JSON gets its one object in any case.
int report(Code code, const std::string& message, bool json, int exit_code) {
  if (json) {
    nlohmann::json object = {{"error", {{"code", code_name(code)}, {"message", message}}}};
    try {
      print_json(object);
    } catch (const Error&) {
    }  // the message below remains
  }
  print_error(fmt::format("error: {}\n", message));
  return exit_code;
}

int exit_code_of(Code code) { return code == Code::Cancelled ? kCancelled : kFailure; }

}  // namespace
}  // namespace sinter

int main(int count, char** words) {
  using namespace sinter;
  std::vector<std::string> arguments(words + (count > 0 ? 1 : 0), words + count);
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error like a full disk, not the end of the program
  bool json = false;
  for (const std::string& argument : arguments) json = json || argument == "--json";
  try {
    return run(arguments);
  } catch (const UsageError& e) {
    return report(e.code(), e.message(), json, kUsage);
  } catch (const Error& e) {
    return report(e.code(), e.message(), json, exit_code_of(e.code()));
  } catch (const std::bad_alloc&) {
    return report(Code::OutOfMemory, "there is not enough memory", json, kFailure);
  } catch (const std::exception& e) {
    return report(Code::Internal, e.what(), json, kFailure);
  }
}
