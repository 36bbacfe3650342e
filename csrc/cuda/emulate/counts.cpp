#include "counts.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>

#include "state.h"

namespace rnnfast::emulate {
namespace {

constexpr uintptr_t kSector = 32, kWord = 4, kBanks = 32;

struct Place {  // of an access in the code
  int32_t pc;
  bool shared, write;
  int bytes;
  bool operator<(const Place& o) const {
    return std::tie(pc, shared, write, bytes) < std::tie(o.pc, o.shared, o.write, o.bytes);
  }
};

struct Instruction {  // what the lanes of a warp ask for at once
  unsigned lanes = 0;
  uintptr_t address[kLanes];
};

struct Interval {                                                   // of a block, between two barriers
  std::map<std::pair<int, Place>, int> turns;                       // of each thread
  std::map<std::tuple<int, int, Place>, Instruction> instructions;  // warp, turn
};

std::unordered_map<const Block*, Interval> intervals;
std::map<Place, AccessCount> totals;
std::map<std::string, size_t> launched;

// Lanes are served in as few passes as there are words, so many of 16 bytes in quarters of a warp, of 8 in halves. In a
// pass each bank gives one word, to whoever wants that one.
void count_banks(const Instruction& all, int bytes, AccessCount& total) {
  const int together = bytes == 16 ? 8 : bytes == 8 ? 16 : kLanes;
  for (int first = 0; first < kLanes; first += together) {
    std::set<uintptr_t> words[kBanks];
    size_t passes = 0;
    for (int lane = first; lane < first + together; ++lane) {
      if (!(all.lanes >> lane & 1)) continue;
      for (uintptr_t word = all.address[lane] / kWord; word * kWord < all.address[lane] + static_cast<unsigned>(bytes);
           ++word) {
        words[word % kBanks].insert(word);
        passes = std::max(passes, words[word % kBanks].size());
      }
    }
    total.passes += passes;
    total.ideal += passes > 0;
  }
}

void count_sectors(const Instruction& all, int bytes, AccessCount& total) {
  std::set<uintptr_t> sectors, addresses;
  for (int lane = 0; lane < kLanes; ++lane)
    if (all.lanes >> lane & 1) {
      addresses.insert(all.address[lane]);
      sectors.insert(all.address[lane] / kSector);
    }
  total.sectors += sectors.size();
  total.useful += addresses.size() * static_cast<size_t>(bytes);
}

}  // namespace

void count_access(const Fiber& fiber, uintptr_t address, int bytes, bool write, bool shared, const void* pc) {
  Interval& interval = intervals[fiber.block];
  const Place place{short_pc(pc), shared, write, bytes};
  const int turn = interval.turns[{fiber.thread, place}]++;
  Instruction& all = interval.instructions[{fiber.thread / kLanes, turn, place}];
  const int lane = fiber.thread % kLanes;
  all.lanes |= 1u << lane;
  all.address[lane] = address;
}

void count_block(const Block& block) {
  const auto found = intervals.find(&block);
  if (found == intervals.end()) return;
  for (const auto& [key, all] : found->second.instructions) {
    const Place& place = std::get<Place>(key);
    AccessCount& total = totals[place];
    ++total.times;
    if (place.shared)
      count_banks(all, place.bytes, total);
    else
      count_sectors(all, place.bytes, total);
  }
  intervals.erase(found);
}

std::vector<AccessCount> counts() {
  std::vector<AccessCount> all;
  for (const auto& [place, total] : totals) {
    AccessCount count = total;
    count.source = source_at(place.pc);
    count.shared = place.shared, count.write = place.write, count.bytes = place.bytes;
    const auto same = std::find_if(all.begin(), all.end(), [&](const AccessCount& o) {  // the loop was unrolled
      return o.source == count.source && o.shared == count.shared && o.write == count.write && o.bytes == count.bytes;
    });
    if (same == all.end()) {
      all.push_back(count);
      continue;
    }
    same->times += count.times;
    same->passes += count.passes, same->ideal += count.ideal;
    same->sectors += count.sectors, same->useful += count.useful;
  }
  return all;
}

void count_launch(const char* kernel, size_t shared_bytes) {
  size_t& most = launched[kernel];
  most = std::max(most, shared_bytes);
}

const std::map<std::string, size_t>& launches() { return launched; }

void clear_counts() {
  totals.clear();
  launched.clear();
  intervals.clear();
}

}  // namespace rnnfast::emulate
