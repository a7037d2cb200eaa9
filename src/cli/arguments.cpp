#include "cli/arguments.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "base/byte_amount.h"
#include "cli/suggest.h"

namespace sinter {
namespace {

/// The verb itself, or the deepest subcommand that was given.
const CLI::App& innermost(const CLI::App& app) {
  auto given = app.get_subcommands();
  return given.empty() ? app : innermost(*given.front());
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) names.push_back(sub->get_name());
  return names;
}

std::string command_of(const CLI::App& app) {
  return app.get_parent() ? app.get_parent()->get_name() + " " + app.get_name() : app.get_name();
}

/// What the command line holds that no option took; empty if nothing.
std::string unknown_argument(const CLI::App& app) {
  std::vector<std::string> left = app.remaining(true);
  auto option = std::ranges::find_if(left, [](const std::string& word) { return word.starts_with("-"); });
  if (option != left.end()) return option->substr(0, option->find('='));
  return left.empty() ? "" : left.front();
}

[[noreturn]] void fail_usage(const CLI::App& app, const CLI::ParseError& e) {
  const CLI::App& inner = innermost(app);
  std::string help = fmt::format("`{} --help` lists the options", command_of(inner));
  std::string word = unknown_argument(app);
  if (word.empty()) throw UsageError(fmt::format("{}; {}", e.what(), help));
  const char* kind = word.starts_with("-") ? "option" : "argument";
  throw UsageError(fmt::format("{} does not know the {} \"{}\"{}; {}", command_of(inner), kind, word,
                               suggestion(word, option_names(inner)), help));
}

}  // namespace

Options::Options(const Verb& verb) : CLI::App(std::string(verb.summary), fmt::format("sinter {}", verb.name)) {
  get_formatter()->column_width(34);
}

void Options::add_json(bool& json) { add_flag("--json", json, "print one JSON object and nothing else on standard output"); }

void Options::add_bytes(const std::string& name, std::optional<int64_t>& bytes, const std::string& what) {
  auto take = [&bytes, name](const std::string& text) {
    bytes = parse_bytes(text);
    if (!bytes) throw CLI::ValidationError(name, fmt::format("\"{}\" is no amount of memory, such as 8G, 6.5GiB or 800M", text));
  };
  add_option_function<std::string>(name, take, what)->type_name("BYTES");
}

void Options::parse_arguments(Arguments arguments) {
  try {
    parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    throw HelpRequest{innermost(*this).help()};
  } catch (const CLI::ParseError& e) {
    fail_usage(*this, e);
  }
}

CLI::Validator whole_number() {
  return CLI::Validator(
      [](const std::string& word) {
        uint64_t value = 0;
        auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
        bool fits = error == std::errc() && end == word.data() + word.size();
        return fits ? std::string() : fmt::format("\"{}\" is out of range: a whole number from 0 to 2^64 - 1", word);
      },
      "0..2^64-1");
}

CLI::Validator in_range(double low, double high) {
  bool open_ended = high == std::numeric_limits<double>::infinity();
  std::string words = open_ended ? fmt::format("{} or more", low) : fmt::format("from {} to {}", low, high);
  return CLI::Validator(
      [=](const std::string& word) {
        double value = 0;
        bool fits = CLI::detail::lexical_cast(word, value) && value >= low && value <= high;
        return fits ? std::string() : fmt::format("{} is out of range: {}", word, words);
      },
      open_ended ? fmt::format(">={}", low) : fmt::format("{}..{}", low, high));
}

CLI::Validator one_of(std::vector<std::string> words) {
  std::string list = fmt::format("{}", fmt::join(words, "|"));
  return CLI::Validator(
      [words = std::move(words)](const std::string& word) {
        if (std::ranges::find(words, word) != words.end()) return std::string();
        return fmt::format("\"{}\" is none of {}{}", word, fmt::join(words, ", "), suggestion(word, words));
      },
      list);
}

}  // namespace sinter
