// Barriers, warp collectives and atomics.
#pragma once

#include <bit>
#include <cstring>
#include <type_traits>

#include "scheduler.h"

namespace cuda_on_host {

inline void block_barrier(const Where& where) {
  const InExecutor guard;
  Barrier& b = block.barrier;
  const unsigned generation = b.generation;
  ++b.arrived;
  pass_barrier_if_complete(b);
  if (b.generation == generation) wait_for_change(&b.generation, "__syncthreads", where);
}

inline void grid_sync(CUDA_ON_HOST_WHERE) {
  const InExecutor guard;
  if (!grid.cooperative) fail("grid_sync in a launch that is not cooperative, at " + to_string(where));
  races::arrive_at_grid();
  if (++grid.arrived < grid.threads) {
    wait_for_change(&grid.generation, "grid_sync", where);
  } else {
    grid.arrived = 0;
    ++grid.generation;
    races::meet_grid();
  }
  races::leave_grid();
}

// Every lane of `mask` brings `in`; answer(all, lane) is what lane `lane` takes home.
template <class In, class Out, class Answer>
Out warp_collective(unsigned mask, const In& in, Answer&& answer, const char* what, const Where& where) {
  static_assert(sizeof(In) <= kMeetingIn && sizeof(Out) <= kMeetingOut && std::is_trivially_copyable_v<In>);
  const InExecutor guard;
  Warp& warp = block.warps[self->warp()];
  if (warp.size < kWarpSize) mask &= (1u << warp.size) - 1;
  const unsigned lane = self->lane();
  if (!(mask >> lane & 1)) {
    fail(std::string("a lane calls ") + what + " without being in its mask, at " + to_string(where));
  }
  Meeting* meeting = nullptr;
  for (Meeting& m : warp.meetings) {
    if (m.mask == mask && (m.arrived || !meeting)) meeting = &m;
  }
  for (Meeting& m : warp.meetings) {
    if (!meeting && !m.arrived) (meeting = &m)->mask = mask;
  }
  if (!meeting) fail(std::string("more than four masks at once in ") + what + " at " + to_string(where));
  if (meeting->arrived == 0) {
    meeting->where = where;
  } else if (meeting->where.line() != where.line() || std::strcmp(meeting->where.file_name(), where.file_name())) {
    fail("lanes of a warp meet in different collectives: " + to_string(meeting->where) + " and " + to_string(where));
  }
  const unsigned buffer = meeting->generation & 1;
  std::memcpy(meeting->in[buffer][lane], &in, sizeof in);
  meeting->arrived |= 1u << lane;
  if (meeting->arrived == mask) {
    const auto all = [&](unsigned l) {
      In value;
      std::memcpy(&value, meeting->in[buffer][l], sizeof value);
      return value;
    };
    for (unsigned l = 0; l < kWarpSize; ++l) {
      if (mask >> l & 1) {
        const Out out = answer(all, l, mask);
        std::memcpy(meeting->out[buffer][l], &out, sizeof out);
      }
    }
    meeting->arrived = 0;
    ++meeting->generation;
  } else {
    wait_for_change(&meeting->generation, what, where);
  }
  Out out;
  std::memcpy(&out, meeting->out[buffer][lane], sizeof out);
  return out;
}

// Lane l takes the value of lane source(l), its own where that lane does not take part.
template <class T, class Source>
T shuffle(unsigned mask, T value, Source&& source, const char* what, const Where& where) {
  const auto answer = [&](auto&& all, unsigned l, unsigned present) {
    const unsigned from = source(l);
    return all(from < kWarpSize && (present >> from & 1) ? from : l);
  };
  return warp_collective<T, T>(mask, value, answer, what, where);
}

inline void warp_barrier(unsigned mask, const Where& where) {
  const auto answer = [](auto&& /*all*/, unsigned lane, unsigned present) {
    const bool first = std::countr_zero(present) == static_cast<int>(lane);
    if (first) races::meet_warp(self->warp(), present);
    return 0;
  };
  warp_collective<int, int>(mask, 0, answer, "__syncwarp", where);
}

template <class T, class F>
T read_modify_write(T* p, F&& f, const char* what, const Where& where) {  // threads switch at waits only: atomic
  const InExecutor guard;
  races::access(p, sizeof(T), races::Kind::Atomic, what, where);
  const T old = *p;
  *p = f(old);
  return old;
}

}  // namespace cuda_on_host
