// What the executor tells the race detector; races.cpp is the detector and says how it works. In a build without it
// (CUDA_ON_HOST_RACES not defined) these functions are empty.
#pragma once

#include <cstddef>

#include "fibers.h"

namespace cuda_on_host::races {

enum class Kind : unsigned char { Read, Write, Atomic };
enum class Proxy : unsigned char { Generic, Async };  // the path to memory: bulk copies take the asynchronous one

#if defined(CUDA_ON_HOST_RACES)
#define CUDA_ON_HOST_RACE_HOOK(declaration, otherwise) declaration;
#else
#define CUDA_ON_HOST_RACE_HOOK(declaration, otherwise) inline declaration { otherwise }
#endif

// Everything before a launch is ordered before it; a block knows of no other block of its launch.
CUDA_ON_HOST_RACE_HOOK(void begin_launch(), )
CUDA_ON_HOST_RACE_HOOK(void begin_block(), )
// Of a cooperative launch another block runs than number `left`.
CUDA_ON_HOST_RACE_HOOK(void enter_block(unsigned /*left*/), )
// These bytes are new shared memory: what happened at the address before is not about them.
CUDA_ON_HOST_RACE_HOOK(void new_memory(const void*, size_t), )

// An access that is no plain load or store. `what` names it in the report.
CUDA_ON_HOST_RACE_HOOK(void access(const void*, size_t, Kind, const char* /*what*/, const Where&), )

// All threads of the block, or the lanes of `mask` in one warp, have met: each comes after all of the others' past.
CUDA_ON_HOST_RACE_HOOK(void meet_block(), )
CUDA_ON_HOST_RACE_HOOK(void meet_warp(unsigned /*warp*/, unsigned /*mask*/), )
// The same for all threads of a cooperative launch: each arrives, then all have met, then each leaves.
CUDA_ON_HOST_RACE_HOOK(void arrive_at_grid(), )
CUDA_ON_HOST_RACE_HOOK(void meet_grid(), )
CUDA_ON_HOST_RACE_HOOK(void leave_grid(), )

// __threadfence: with an atomic after it, publishes this thread's past; with one before it, takes what was published.
CUDA_ON_HOST_RACE_HOOK(void fence(), )
// fence.proxy.async: this thread's stores so far are visible to bulk copies.
CUDA_ON_HOST_RACE_HOOK(void proxy_fence(), )

// An asynchronous operation counts as a thread of its own that starts at issue. Its accesses are unordered with all
// that follows until its completion is known.
CUDA_ON_HOST_RACE_HOOK(unsigned begin_operation(Proxy), return 0;)
CUDA_ON_HOST_RACE_HOOK(void operation_access(unsigned, const void*, size_t, Kind, const char* /*what*/, const Where&), )
CUDA_ON_HOST_RACE_HOOK(void operation_done(unsigned), )  // for this thread

// A meeting point of some threads, such as a phase of an mbarrier: who takes is ordered after all who gave before.
CUDA_ON_HOST_RACE_HOOK(unsigned new_point(), return 0;)
CUDA_ON_HOST_RACE_HOOK(void give(unsigned /*point*/), )
CUDA_ON_HOST_RACE_HOOK(void give_operation(unsigned /*point*/, unsigned /*operation*/), )
CUDA_ON_HOST_RACE_HOOK(void take(unsigned /*point*/), )
CUDA_ON_HOST_RACE_HOOK(unsigned successor(unsigned /*point*/), return 0;)  // a new point that has all of this one

#undef CUDA_ON_HOST_RACE_HOOK

}  // namespace cuda_on_host::races
