// Asynchronous copies and mbarriers: the host twins of csrc/cuda/ptx.cuh, which says what each does on the device.
//
// Options::landing chooses when bytes arrive. Eager: at issue. Late: of cp.async at the wait that covers its group, of a
// bulk copy when no thread can go on without it. The device may choose any moment between.
#pragma once

#include "shared_memory.h"

namespace cuda_on_host {

inline void check_copy(const AsyncCopy& copy, unsigned alignment, const char* what, const Where& where) {
  const auto refuse = [&](const char* why) { fail(std::string(what) + " at " + to_string(where) + why); };
  if (reinterpret_cast<uintptr_t>(copy.shared) % alignment || reinterpret_cast<uintptr_t>(copy.global) % alignment) {
    refuse(": an address is not aligned to the size of the copy (16 bytes for a bulk copy)");
  }
  const size_t room = shared_bytes_from(copy.shared);
  if (room == 0) refuse(": the destination is not shared memory");
  if (room < copy.bytes) refuse(" writes past the end of a shared array");
}

inline void land(const AsyncCopy& copy) {
  if (copy.valid) std::memcpy(copy.shared, copy.global, copy.valid);
  std::memset(static_cast<char*>(copy.shared) + copy.valid, 0, copy.bytes - copy.valid);
}

// ---------------------------------------------------------------- cp.async

inline void open_copy_group() {
  self->copy_groups.push_back({{}, races::begin_operation(races::Proxy::Generic)});
  self->group_open = true;
}

inline void cp_async(void* shared, const void* global, unsigned bytes, unsigned valid, const Where& where) {
  const InExecutor guard;
  const AsyncCopy copy{shared, global, bytes, valid};
  if (valid > bytes) fail("cp.async at " + to_string(where) + ": more valid bytes than it copies");
  check_copy(copy, bytes, "cp.async", where);
  if (!self->group_open) open_copy_group();
  CopyGroup& group = self->copy_groups.back();
  races::operation_access(group.operation, global, valid, races::Kind::Read, "cp.async's read", where);
  races::operation_access(group.operation, shared, bytes, races::Kind::Write, "cp.async's write", where);
  if (options.landing == Landing::Eager) {
    land(copy);
  } else {
    group.copies.push_back(copy);
  }
}

inline void cp_async_4(void* shared, const void* global, unsigned valid = 4, CUDA_ON_HOST_WHERE) {
  cp_async(shared, global, 4, valid, where);
}
inline void cp_async_8(void* shared, const void* global, unsigned valid = 8, CUDA_ON_HOST_WHERE) {
  cp_async(shared, global, 8, valid, where);
}
inline void cp_async_16(void* shared, const void* global, unsigned valid = 16, CUDA_ON_HOST_WHERE) {
  cp_async(shared, global, 16, valid, where);
}

inline void cp_async_commit_group() {
  const InExecutor guard;
  if (!self->group_open) open_copy_group();  // an empty one
  self->group_open = false;
}

template <unsigned kNewestLeft>
void cp_async_wait_group() {
  const InExecutor guard;
  Thread& me = *self;
  while (me.copy_groups.size() - me.group_open > kNewestLeft) {
    for (const AsyncCopy& copy : me.copy_groups.front().copies) land(copy);
    races::operation_done(me.copy_groups.front().operation);
    me.copy_groups.pop_front();
  }
}

// ---------------------------------------------------------------- mbarrier

inline Mbarrier& find_mbarrier(const uint64_t* address, const char* what, const Where& where) {
  const auto found = block.mbarriers.find(address);
  if (found == block.mbarriers.end()) {
    fail(std::string(what) + " before the mbarrier's initialisation, at " + to_string(where));
  }
  return found->second;
}

inline void complete_phase_if_due(Mbarrier& m) {
  if (m.pending > 0 || m.bytes != 0) return;
  m.pending = m.expected;
  ++m.generation;
  m.completed = m.arrivals;
  m.arrivals = races::successor(m.completed);
}

inline void mbarrier_init(uint64_t* address, unsigned arrivals, CUDA_ON_HOST_WHERE) {
  const InExecutor guard;
  if (shared_bytes_from(address) < sizeof *address) fail("mbarrier outside shared memory at " + to_string(where));
  if (block.mbarriers.count(address)) fail("mbarrier initialised twice, at " + to_string(where));
  races::access(address, sizeof *address, races::Kind::Write, "mbarrier.init", where);
  Mbarrier& m = block.mbarriers[address];
  m.expected = m.pending = arrivals;
  m.where = where;
  m.arrivals = races::new_point();
  m.completed = races::new_point();
}

inline void arrive(uint64_t* address, unsigned bytes, const char* what, const Where& where) {
  const InExecutor guard;
  Mbarrier& m = find_mbarrier(address, what, where);
  races::access(address, sizeof *address, races::Kind::Atomic, what, where);
  if (m.pending == 0) {
    fail(std::string(what) + ": more arrivals than a phase of the mbarrier takes, at " + to_string(where));
  }
  m.bytes += bytes;
  --m.pending;
  races::give(m.arrivals);
  complete_phase_if_due(m);
}

inline void mbarrier_arrive(uint64_t* address, CUDA_ON_HOST_WHERE) { arrive(address, 0, "mbarrier.arrive", where); }
inline void mbarrier_arrive_expect_tx(uint64_t* address, unsigned bytes, CUDA_ON_HOST_WHERE) {
  arrive(address, bytes, "mbarrier.arrive.expect_tx", where);
}

inline void mbarrier_wait(uint64_t* address, unsigned parity, CUDA_ON_HOST_WHERE) {
  const InExecutor guard;
  Mbarrier& m = find_mbarrier(address, "mbarrier.try_wait", where);
  races::access(address, sizeof *address, races::Kind::Atomic, "mbarrier.try_wait", where);
  while ((m.generation & 1) == (parity & 1)) wait_for_change(&m.generation, "mbarrier.try_wait", where);
  races::take(m.completed);
}

// ---------------------------------------------------------------- bulk copies

inline void land(const BulkCopy& bulk) {
  for (const AsyncCopy& piece : bulk.pieces) land(piece);
  bulk.barrier->bytes -= bulk.bytes;
  races::give_operation(bulk.barrier->arrivals, bulk.operation);
  complete_phase_if_due(*bulk.barrier);
}

inline bool land_oldest_bulk_copy() {
  if (block.bulk_copies.empty()) return false;
  land(block.bulk_copies.front());
  block.bulk_copies.pop_front();
  return true;
}

inline void fence_proxy_async() {
  const InExecutor guard;
  races::proxy_fence();
}

inline void issue_bulk_copy(std::vector<AsyncCopy> pieces, unsigned bytes, uint64_t* barrier, const char* what,
                            const Where& where) {
  Mbarrier& m = find_mbarrier(barrier, what, where);
  const unsigned operation = races::begin_operation(races::Proxy::Async);
  races::operation_access(operation, barrier, sizeof *barrier, races::Kind::Atomic, "a bulk copy's arrival", where);
  for (const AsyncCopy& piece : pieces) {
    races::operation_access(operation, piece.global, piece.valid, races::Kind::Read, "a bulk copy's read", where);
    races::operation_access(operation, piece.shared, piece.bytes, races::Kind::Write, "a bulk copy's write", where);
  }
  block.bulk_copies.push_back({std::move(pieces), bytes, &m, operation, where});
  if (options.landing == Landing::Eager) land_oldest_bulk_copy();
}

inline void bulk_copy(void* shared, const void* global, unsigned bytes, uint64_t* barrier, CUDA_ON_HOST_WHERE) {
  const InExecutor guard;
  const AsyncCopy copy{shared, global, bytes, bytes};
  if (bytes % 16) fail("cp.async.bulk at " + to_string(where) + ": the size is no multiple of 16 bytes");
  check_copy(copy, 16, "cp.async.bulk", where);
  issue_bulk_copy({copy}, bytes, barrier, "cp.async.bulk", where);
}

}  // namespace cuda_on_host
