// graph_svg: boxes in layers, drawn without outside help.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "graph/listing.h"
#include "graph/print.h"

namespace sinter {
namespace {

constexpr double kLineHeight = 14, kLetterWidth = 6.7, kPadding = 8, kGapX = 18, kGapY = 34, kMargin = 24, kTitleHeight = 30;

/// A box, or (without lines) the place where an arrow passes through a layer.
struct Place {
  std::vector<std::string> lines;
  const char* fill = "";
  std::string tooltip;
  int layer = 0;
  double width = 2, height = 0, x = 0, y = 0;  // x of the centre, y of the top
  std::vector<int> from;                       // places above
  bool is_box() const { return !lines.empty(); }
};

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += uint8_t(c) < 0x20 ? ' ' : c;
  }
  return out;
}

/// Sizes of unknown quantities can be long; the whole text is in the box's tooltip.
std::string shortened(const std::string& line) {
  constexpr size_t kLongest = 48;
  if (line.size() <= kLongest) return line;
  size_t end = kLongest - 3;
  while (end > 0 && (uint8_t(line[end]) & 0xc0) == 0x80) --end;  // between characters
  return line.substr(0, end) + "...";
}

Place box(std::vector<std::string> lines, const char* fill) {
  Place place{{}, fill};
  for (const std::string& line : lines) {
    place.lines.push_back(shortened(line));
    place.tooltip += (place.tooltip.empty() ? "" : "\n") + line;
  }
  size_t longest = 0;
  for (const std::string& line : place.lines) longest = std::max(longest, line.size());
  place.width = double(longest) * kLetterWidth + 2 * kPadding;
  place.height = double(place.lines.size()) * kLineHeight + kPadding;
  return place;
}

/// One section laid out: layer of a box = the longest way to it, so that all arrows point down.
class Drawing {
 public:
  explicit Drawing(const Listing::Section& section) {
    for (const auto& item : section.items) add_item(item);
    for (const auto& [name, item] : section.outputs) {
      int at = add(box({name}, "#dff0d8"));
      connect(item, at);
    }
    lower_sources();
    split_long_arrows();
    fill_layers();
    for (int sweep = 0; sweep < 4; ++sweep) order_by_neighbours(sweep % 2 == 0);
    place_across();
    place_down();
  }

  double width() const { return width_; }
  double height() const { return height_; }

  std::string svg(double left, double top) const {
    std::string arrows, boxes;
    for (const Place& place : places_) {
      for (int from : place.from) arrows += arrow(places_[size_t(from)], place, left, top);
      if (place.is_box()) boxes += box_svg(place, left, top);
    }
    return arrows + boxes;
  }

 private:
  int add(Place place) {
    places_.push_back(std::move(place));
    return int(places_.size()) - 1;
  }
  void connect(int from, int to) {
    places_[size_t(to)].from.push_back(from);
    places_[size_t(to)].layer = std::max(places_[size_t(to)].layer, places_[size_t(from)].layer + 1);
  }
  void add_item(const Listing::Item& item) {
    std::vector<std::string> lines{item.label};
    for (const auto& argument : item.arguments)
      if (argument.item < 0) lines.push_back(argument.text);
    if (!item.attributes.empty()) lines.push_back(item.attributes);
    lines.push_back(item.type);
    const char* fill = item.kind == Listing::Kind::input ? "#d9e8fb" : item.kind == Listing::Kind::call ? "#ffe9c7" : "#f7f7f7";
    int at = add(box(std::move(lines), fill));
    for (const auto& argument : item.arguments)
      if (argument.item >= 0) connect(argument.item, at);
  }

  /// What comes from nothing stands right above its first user.
  void lower_sources() {
    std::vector<int> first_user(places_.size(), 0);
    for (size_t i = places_.size(); i-- > 0;)
      for (int from : places_[i].from) {
        int& first = first_user[size_t(from)];
        first = first == 0 ? places_[i].layer : std::min(first, places_[i].layer);
      }
    for (size_t i = 0; i < places_.size(); ++i)
      if (places_[i].from.empty() && first_user[i] > 0) places_[i].layer = first_user[i] - 1;
  }

  /// An arrow over several layers passes through a place in each, which keeps it out of the boxes there. Arrows from one box
  /// share their places.
  void split_long_arrows() {
    size_t boxes = places_.size();
    std::vector<std::vector<int>> ways(boxes);  // from a box downwards, one place a layer
    for (size_t i = 0; i < boxes; ++i)
      for (size_t k = 0; k < places_[i].from.size(); ++k) {
        int from = places_[i].from[k], steps = places_[i].layer - places_[size_t(from)].layer - 1;
        auto& way = ways[size_t(from)];
        while (int(way.size()) < steps) {
          Place through;
          through.layer = places_[size_t(from)].layer + 1 + int(way.size());
          through.from = {way.empty() ? from : way.back()};
          way.push_back(add(through));
        }
        if (steps > 0) places_[i].from[k] = way[size_t(steps - 1)];
      }
  }

  void fill_layers() {
    for (size_t i = 0; i < places_.size(); ++i) {
      layers_.resize(std::max(layers_.size(), size_t(places_[i].layer) + 1));
      layers_[size_t(places_[i].layer)].push_back(int(i));
    }
    to_.resize(places_.size());
    for (size_t i = 0; i < places_.size(); ++i)
      for (int from : places_[i].from) to_[size_t(from)].push_back(int(i));
  }

  /// Sorts each layer by the mean position of what it is connected to, in the layer above or below.
  void order_by_neighbours(bool downwards) {
    std::vector<double> position(places_.size());
    for (size_t k = 0; k < layers_.size(); ++k) {
      auto& layer = layers_[downwards ? k : layers_.size() - 1 - k];
      std::vector<std::pair<double, int>> keys;
      for (size_t i = 0; i < layer.size(); ++i) {
        const auto& neighbours = downwards ? places_[size_t(layer[i])].from : to_[size_t(layer[i])];
        double sum = 0;
        for (int neighbour : neighbours) sum += position[size_t(neighbour)];
        keys.emplace_back(neighbours.empty() ? double(i) : sum / double(neighbours.size()), layer[i]);
      }
      std::stable_sort(keys.begin(), keys.end(), [](auto& a, auto& b) { return a.first < b.first; });
      for (size_t i = 0; i < layer.size(); ++i) {
        layer[i] = keys[i].second;
        position[size_t(layer[i])] = double(i);
      }
    }
  }

  /// Below what it comes from, but to the right of its left neighbour; then the layer as a whole is moved back.
  void place_across() {
    double least = 0, most = 0;
    for (auto& layer : layers_) {
      double edge = -1e9, moved = 0;
      for (int i : layer) {
        Place& place = places_[size_t(i)];
        double wanted = 0;
        for (int from : place.from) wanted += places_[size_t(from)].x;
        if (!place.from.empty()) wanted /= double(place.from.size());
        place.x = std::max(wanted, edge + kGapX + place.width / 2);
        moved += place.x - wanted;
        edge = place.x + place.width / 2;
      }
      for (int i : layer) {
        Place& place = places_[size_t(i)];
        place.x -= moved / double(layer.size());
        least = std::min(least, place.x - place.width / 2);
        most = std::max(most, place.x + place.width / 2);
      }
    }
    for (Place& place : places_) place.x -= least;
    width_ = most - least;
  }

  void place_down() {
    for (auto& layer : layers_) {
      double tallest = 0;
      for (int i : layer) tallest = std::max(tallest, places_[size_t(i)].height);
      for (int i : layer) {
        Place& place = places_[size_t(i)];
        place.y = height_;
        if (!place.is_box()) place.height = tallest;  // straight through the layer
      }
      height_ += tallest + kGapY;
    }
  }

  static std::string arrow(const Place& from, const Place& to, double left, double top) {
    double x0 = left + from.x, y0 = top + from.y + from.height, x1 = left + to.x, y1 = top + to.y, middle = (y0 + y1) / 2;
    std::string path =
        fmt::format("M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}", x0, y0, x0, middle, x1, middle, x1, y1);
    if (!to.is_box()) path += fmt::format("V{:.1f}", y1 + to.height);
    return fmt::format("<path d=\"{}\"{}/>\n", path, to.is_box() ? " marker-end=\"url(#tip)\"" : "");
  }

  static std::string box_svg(const Place& place, double left, double top) {
    double x = left + place.x - place.width / 2, y = top + place.y;
    std::string out = fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"4\" fill=\"{}\"><title>{}</title></rect>\n", x,
        y, place.width, place.height, place.fill, escaped(place.tooltip));
    for (size_t i = 0; i < place.lines.size(); ++i)
      out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\"{}>{}</text>\n", left + place.x, y + double(i + 1) * kLineHeight - 1,
                         i == 0 ? " font-weight=\"bold\"" : "", escaped(place.lines[i]));
    return out;
  }

  std::vector<Place> places_;
  std::vector<std::vector<int>> layers_, to_;
  double width_ = 0, height_ = 0;
};

}  // namespace

std::string graph_svg(const Graph& graph) {
  std::string body;
  double width = 0, top = kMargin;
  for (const auto& section : list_graph(graph).sections) {
    Drawing drawing(section);
    std::string title = section.title;
    if (!section.callers.empty()) title += fmt::format(", called {} times", section.callers.size());
    body += fmt::format("<text class=\"title\" x=\"{}\" y=\"{:.1f}\">{}</text>\n", kMargin, top + 14, escaped(title));
    top += kTitleHeight;
    body += drawing.svg(kMargin, top);
    top += drawing.height() + kMargin;
    width = std::max({width, drawing.width(), double(title.size()) * 9});
  }
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\">\n"
             "<style>text{{font:11px monospace;text-anchor:middle}}.title{{font:bold 15px sans-serif;text-anchor:start}}"
             "rect{{stroke:#555}}path{{fill:none;stroke:#8a8a8a}}</style>\n"
             "<defs><marker id=\"tip\" viewBox=\"0 0 6 6\" refX=\"6\" refY=\"3\" markerWidth=\"7\" markerHeight=\"7\" "
             "orient=\"auto\"><path d=\"M0 0L6 3L0 6z\" style=\"fill:#8a8a8a\"/></marker></defs>\n"
             "<rect width=\"100%\" height=\"100%\" style=\"fill:white;stroke:none\"/>\n",
             width + 2 * kMargin, top) +
         body + "</svg>\n";
}

}  // namespace sinter
