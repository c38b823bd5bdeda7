// wgmma and named barriers: the host twins of csrc/cuda/ptx_sm90a.cuh, which has the layouts.
//
// A warp's share of a wgmma is 16 rows of A and all of B. Its operands are read through their descriptors, as part of
// the asynchronous proxy, at issue (Landing::Eager) or in the wait that covers it (Late). Accumulators hold a NaN from
// issue to that wait, writes to them are found there, and the race detector refuses all accesses.
#pragma once

#include <cmath>

#include "collectives.h"
#include "tensor_map.h"

namespace cuda_on_host {

constexpr unsigned kWarpgroup = 4;  // warps
constexpr unsigned kWarpRows = 16, kWgmmaDepth = 16;

// Where element (i, k) of an operand lies, which is 16-bit: "Canonical Layouts".
class OperandLayout {
 public:
  explicit OperandLayout(const Operand& operand, const char* name, const Where& where) : mn_major_(operand.mn_major) {
    const uint64_t d = operand.descriptor;
    start_ = static_cast<uint32_t>(d & 0x3FFF) << 4;
    leading_ = static_cast<uint32_t>(d >> 16 & 0x3FFF) << 4;
    stride_ = static_cast<uint32_t>(d >> 32 & 0x3FFF) << 4;
    const unsigned mode = static_cast<unsigned>(d >> 62);
    bits_ = mode == 0 ? 0 : 4 - mode;
    span_ = 16u << bits_;
    const auto refuse = [&](const char* why) {
      fail(std::string("wgmma at ") + to_string(where) + ": the descriptor of " + name + why);
    };
    if (d & 0x3F01C000C000C000) refuse(" sets bits that mean nothing");
    if (d >> 49 & 7) refuse(" has a base offset, which is not modelled");
    if (bits_ && start_ % (8 * span_) >= span_) refuse(" starts inside the swizzle's pattern: the tile is misaligned");
  }

  // Of 8 neighbours along the contiguous index, which a chunk of 16 bytes holds.
  uint32_t chunk(unsigned i, unsigned k) const {
    uint32_t byte;
    if (!mn_major_) {
      byte = i % 8 * span_ + i / 8 * stride_ + (bits_ ? k * 2 : k / 8 * leading_);
    } else if (bits_) {
      byte = i % (span_ / 2) * 2 + i / (span_ / 2) * leading_ + k % 8 * span_ + k / 8 * stride_;
    } else {
      byte = i / 8 * stride_ + k % 8 * 16 + k / 8 * leading_;
    }
    return swizzled(start_ + byte, bits_);
  }
  bool mn_major() const { return mn_major_; }

 private:
  bool mn_major_;
  uint32_t start_, leading_, stride_, span_;
  unsigned bits_;
};

// Calls body(i, k, chunk) for the chunks of 8 elements of rows [first, first + rows).
template <class Body>
void for_chunks(const OperandLayout& layout, unsigned first, unsigned rows, Body&& body) {
  const unsigned i_step = layout.mn_major() ? 8 : 1, k_step = layout.mn_major() ? 1 : 8;
  for (unsigned i = first; i < first + rows; i += i_step) {
    for (unsigned k = 0; k < kWgmmaDepth; k += k_step) body(i, k, at_shared_address(layout.chunk(i, k)));
  }
}

inline void announce_operand(const Wgmma& w, const Operand& operand, unsigned first, unsigned rows, const char* name) {
  const std::string what = std::string("wgmma's read of ") + name;
  static const char* const kReads[] = {"wgmma's read of A", "wgmma's read of B"};
  for_chunks(OperandLayout(operand, name, w.where), first, rows, [&](unsigned, unsigned, const void* chunk) {
    if (shared_bytes_from(chunk) < 16) fail(what + " at " + to_string(w.where) + " is outside shared memory");
    races::operation_access(w.operation, chunk, 16, races::Kind::Read, kReads[*name - 'A'], w.where);
  });
}

inline std::vector<float> load_operand(const Wgmma& w, const Operand& operand, unsigned first, unsigned rows,
                                       const char* name) {
  std::vector<float> values(rows * kWgmmaDepth);
  const OperandLayout layout(operand, name, w.where);
  for_chunks(layout, first, rows, [&](unsigned i, unsigned k, const unsigned char* chunk) {
    for (unsigned e = 0; e < 8; ++e) {
      const unsigned row = i - first + (layout.mn_major() ? e : 0), depth = k + (layout.mn_major() ? 0 : e);
      values[row * kWgmmaDepth + depth] = w.element(chunk + 2 * e);
    }
  });
  return values;
}

inline unsigned first_row(unsigned warp) { return warp % kWarpgroup * kWarpRows; }

// "Matrix Fragments for wgmma.mma_async.m64nNk16"
inline void multiply(const Wgmma& w, unsigned warp) {
  const unsigned columns = static_cast<unsigned>(w.accumulators[0]->values.size()) * 2;
  const std::vector<float> a = load_operand(w, w.a, first_row(warp), kWarpRows, "A");
  const std::vector<float> b = load_operand(w, w.b, 0, columns, "B");
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    std::vector<float>& values = w.accumulators[lane]->values;
    for (unsigned e = 0; e < values.size(); ++e) {
      const float* row = a.data() + (lane / 4 + e / 2 % 2 * 8) * kWgmmaDepth;
      const float* column = b.data() + (e / 4 * 8 + lane % 4 * 2 + e % 2) * kWgmmaDepth;
      float sum = w.accumulate ? values[e] : 0.f;
      for (unsigned k = 0; k < kWgmmaDepth; ++k) sum = std::fma(row[k], column[k], sum);
      values[e] = sum;
    }
  }
}

inline std::vector<Wgmma>& open_wgmma_group(WarpWgmmas& mine) {
  if (!mine.group_open) mine.groups.emplace_back();
  mine.group_open = true;
  return mine.groups.back();
}

struct WgmmaCall {  // of one lane
  float* registers;
  size_t count;
  Operand a, b;
  bool accumulate;
};

inline void agree_with_warpgroup(const WgmmaCall& call, unsigned warp, unsigned index, const Where& where) {
  std::vector<WgmmaIssue>& issues = block.wgmma_issues[warp / kWarpgroup];
  if (index == issues.size()) {
    issues.push_back({call.a.descriptor, call.b.descriptor, call.accumulate, call.count, where});
    return;
  }
  const WgmmaIssue& first = issues[index];
  if (first.a != call.a.descriptor || first.b != call.b.descriptor || first.accumulate != call.accumulate ||
      first.registers != call.count || first.where.line() != where.line()) {
    fail("the warps of a warpgroup issue different wgmma: at " + to_string(first.where) + " and " + to_string(where));
  }
}

// Arithmetic makes a quiet NaN of it, which shows.
constexpr uint32_t kInFlight = 0x7FA0DEAD;

inline Accumulator* take_registers(WarpWgmmas& mine, unsigned lane, const WgmmaCall& call, const Where& where) {
  for (Accumulator& accumulator : mine.in_flight[lane]) {
    if (accumulator.registers == call.registers) return &accumulator;
  }
  if (!mine.fenced) fail("wgmma at " + to_string(where) + ": no wgmma_fence since its accumulators were free");
  mine.in_flight[lane].push_back({call.registers, {call.registers, call.registers + call.count}});
  for (size_t i = 0; i < call.count; ++i) std::memcpy(call.registers + i, &kInFlight, sizeof kInFlight);
  return &mine.in_flight[lane].back();
}

// The 32 lanes' calls have come together.
template <class Call>
void issue_wgmma(Call&& call_of, float (*element)(const void*), const Where& where) {
  const unsigned warp = self->warp();
  WarpWgmmas& mine = block.wgmmas[warp];
  const WgmmaCall& call = *call_of(0);
  if (warp / kWarpgroup * kWarpgroup + kWarpgroup > block.warps.size()) {
    fail("wgmma at " + to_string(where) + ": a warpgroup is four warps, the first with an index divisible by 4");
  }
  Wgmma w{call.a, call.b, call.accumulate, element, {}, races::begin_operation(races::Proxy::Async), where};
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    const WgmmaCall& other = *call_of(lane);
    if (other.a.descriptor != call.a.descriptor || other.b.descriptor != call.b.descriptor ||
        other.accumulate != call.accumulate) {
      fail("the lanes of a warp issue different wgmma, at " + to_string(where));
    }
    w.accumulators[lane] = take_registers(mine, lane, other, where);
    ++w.accumulators[lane]->in_flight;
  }
  agree_with_warpgroup(call, warp, mine.issued++, where);
  announce_operand(w, w.a, first_row(warp), kWarpRows, "A");
  announce_operand(w, w.b, 0, static_cast<unsigned>(call.count) * 2, "B");
  if (options.landing == Landing::Eager) multiply(w, warp);
  open_wgmma_group(mine).push_back(std::move(w));
}

template <class T>
void wgmma(float* registers, size_t count, Operand a, Operand b, bool accumulate, const Where& where) {
  const InExecutor guard;
  const WgmmaCall call{registers, count, a, b, accumulate};
  const auto element = [](const void* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return static_cast<float>(value);
  };
  const auto answer = [&](auto&& call_of, unsigned lane, unsigned) {
    if (lane == 0) issue_wgmma(call_of, element, where);
    return 0;
  };
  warp_collective<const WgmmaCall*, int>(0xffffffffu, &call, answer, "wgmma.mma_async", where);
}

template <class Accumulators>
void wgmma_fence(Accumulators&, CUDA_ON_HOST_WHERE) {
  const InExecutor guard;
  const auto answer = [](auto&&, unsigned, unsigned) {
    block.wgmmas[self->warp()].fenced = true;
    return 0;
  };
  warp_collective<int, int>(0xffffffffu, 0, answer, "wgmma.fence", where);
}

inline void wgmma_commit_group(CUDA_ON_HOST_WHERE) {
  const InExecutor guard;
  const auto answer = [](auto&&, unsigned lane, unsigned) {
    WarpWgmmas& mine = block.wgmmas[self->warp()];
    if (lane == 0) {
      open_wgmma_group(mine);
      mine.group_open = false;
    }
    return 0;
  };
  warp_collective<int, int>(0xffffffffu, 0, answer, "wgmma.commit_group", where);
}

inline void give_back_registers(WarpWgmmas& mine, unsigned lane, const Where& where) {
  mine.in_flight[lane].remove_if([&](const Accumulator& accumulator) {
    if (accumulator.in_flight) return false;
    for (size_t i = 0; i < accumulator.values.size(); ++i) {
      if (std::memcmp(accumulator.registers + i, &kInFlight, sizeof kInFlight)) {
        fail("an accumulator was written while wgmma were in flight, before the wait at " + to_string(where));
      }
      accumulator.registers[i] = accumulator.values[i];
    }
    mine.fenced = false;  // its thread may use them from now on
    return true;
  });
}

inline std::vector<unsigned> finish_wgmma_groups(size_t newest_left, const Where& where) {
  const unsigned warp = self->warp();
  WarpWgmmas& mine = block.wgmmas[warp];
  std::vector<unsigned> operations;
  while (mine.groups.size() - mine.group_open > newest_left) {
    for (const Wgmma& w : mine.groups.front()) {
      if (options.landing == Landing::Late) multiply(w, warp);
      operations.push_back(w.operation);
      for (Accumulator* accumulator : w.accumulators) --accumulator->in_flight;
    }
    mine.groups.pop_front();
  }
  for (unsigned lane = 0; lane < kWarpSize; ++lane) give_back_registers(mine, lane, where);
  return operations;
}

template <int kNewestLeft, class Accumulators>
void wgmma_wait_group(Accumulators&, CUDA_ON_HOST_WHERE) {
  const InExecutor guard;
  std::vector<unsigned> finished;
  const auto answer = [&](auto&& list_of, unsigned lane, unsigned) {
    if (lane == 0) {
      const std::vector<unsigned> operations = finish_wgmma_groups(kNewestLeft, where);
      for (unsigned other = 0; other < kWarpSize; ++other) *list_of(other) = operations;
    }
    return 0;
  };
  warp_collective<std::vector<unsigned>*, int>(0xffffffffu, &finished, answer, "wgmma.wait_group", where);
  for (unsigned operation : finished) races::operation_done(operation);
}

inline std::string unfinished_wgmma() {
  for (unsigned warp = 0; warp < block.wgmmas.size(); ++warp) {
    const WarpWgmmas& mine = block.wgmmas[warp];
    for (const auto& group : mine.groups) {
      if (group.empty()) continue;
      return "all threads of " + block.name() + " have finished, but the wgmma issued at " +
             to_string(group.front().where) + " was not waited for";
    }
    const auto issues = block.wgmma_issues.find(warp / kWarpgroup);
    if (issues != block.wgmma_issues.end() && issues->second.size() != mine.issued) {
      return "a wgmma was not issued by all four warps: at " + to_string(issues->second[mine.issued].where);
    }
  }
  return "";
}

// ---------------------------------------------------------------- bar.sync

inline void named_barrier(int name, int threads, CUDA_ON_HOST_WHERE) {
  const InExecutor guard;
  if (name < 1 || name > 15 || threads < 1 || threads % static_cast<int>(kWarpSize)) {
    fail("bar.sync at " + to_string(where) + ": names are 1 to 15 (0 is __syncthreads), threads come in whole warps");
  }
  const bool fresh = !block.named_barriers.count(name);
  NamedBarrier& barrier = block.named_barriers[name];
  if (fresh) barrier.arrivals = races::new_point();
  if (barrier.arrived == 0) barrier.threads = static_cast<unsigned>(threads);
  if (barrier.threads != static_cast<unsigned>(threads)) {
    fail("bar.sync at " + to_string(where) + ": threads meet under one name and expect different numbers");
  }
  races::give(barrier.arrivals);
  if (++barrier.arrived == barrier.threads) {
    barrier.completed = barrier.arrivals;
    barrier.arrivals = races::new_point();
    barrier.arrived = 0;
    ++barrier.generation;
  } else {
    wait_for_change(&barrier.generation, "bar.sync", where);
  }
  races::take(barrier.completed);
}

}  // namespace cuda_on_host
