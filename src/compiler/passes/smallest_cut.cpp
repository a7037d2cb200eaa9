#include "compiler/passes/smallest_cut.h"

#include <algorithm>
#include <limits>

namespace sinter {
namespace {

constexpr int64_t kEndless = std::numeric_limits<int64_t>::max() / 4;

/// Flow by shortest augmenting paths. Each node is an edge from its entry to its exit, as wide as its price.
class Flow {
 public:
  explicit Flow(const std::vector<CutNode>& nodes) : edges_(2 * nodes.size() + 2) {
    for (size_t i = 0; i < nodes.size(); ++i) {
      connect(entry(i), exit(i), nodes[i].price);
      if (nodes[i].given) connect(source(), entry(i), kEndless);
      if (nodes[i].wanted) connect(exit(i), sink(), kEndless);
      if (nodes[i].given) continue;
      for (int from : nodes[i].sources) connect(exit(size_t(from)), entry(i), kEndless);
    }
    while (augment()) {
    }
  }

  /// Nodes whose exit still reaches the sink and whose entry does not.
  std::vector<int> cut() const {
    std::vector<char> reaches(edges_.size());
    std::vector<size_t> open{sink()};
    reaches[sink()] = 1;
    while (!open.empty()) {
      size_t at = open.back();
      open.pop_back();
      for (const Edge& e : edges_[at])
        if (!reaches[e.to] && edges_[e.to][e.reverse].room > 0) {
          reaches[e.to] = 1;
          open.push_back(e.to);
        }
    }
    std::vector<int> nodes;
    for (size_t i = 0; 2 * i + 2 < edges_.size(); ++i)
      if (reaches[exit(i)] && !reaches[entry(i)]) nodes.push_back(int(i));
    return nodes;
  }

 private:
  struct Edge {
    size_t to, reverse;  // `reverse`: its position among the edges of `to`
    int64_t room;
  };
  static size_t entry(size_t node) { return 2 * node; }
  static size_t exit(size_t node) { return 2 * node + 1; }
  size_t source() const { return edges_.size() - 2; }
  size_t sink() const { return edges_.size() - 1; }

  void connect(size_t from, size_t to, int64_t room) {
    edges_[from].push_back({to, edges_[to].size(), room});
    edges_[to].push_back({from, edges_[from].size() - 1, 0});
  }

  bool augment() {
    struct Arrival {
      size_t from = 0, edge = 0;
      bool seen = false;
    };
    std::vector<Arrival> arrivals(edges_.size());
    std::vector<size_t> queue{source()};
    arrivals[source()].seen = true;
    for (size_t next = 0; next < queue.size() && !arrivals[sink()].seen; ++next)
      for (size_t i = 0; i < edges_[queue[next]].size(); ++i) {
        const Edge& e = edges_[queue[next]][i];
        if (e.room == 0 || arrivals[e.to].seen) continue;
        arrivals[e.to] = {queue[next], i, true};
        queue.push_back(e.to);
      }
    if (!arrivals[sink()].seen) return false;
    auto each_edge = [&](auto visit) {
      for (size_t at = sink(); at != source(); at = arrivals[at].from) visit(edges_[arrivals[at].from][arrivals[at].edge]);
    };
    int64_t room = kEndless;
    each_edge([&](Edge& e) { room = std::min(room, e.room); });
    each_edge([&](Edge& e) { e.room -= room, edges_[e.to][e.reverse].room += room; });
    return true;
  }

  std::vector<std::vector<Edge>> edges_;
};

}  // namespace

std::vector<int> smallest_cut(const std::vector<CutNode>& nodes) { return Flow(nodes).cut(); }

}  // namespace sinter
