#ifndef SHARDSTEP_COMM_TCP_LISTENING_RENDEZVOUS_H_
#define SHARDSTEP_COMM_TCP_LISTENING_RENDEZVOUS_H_

#include <cstdint>
#include <memory>

#include "shardstep/comm/tcp/socket.h"
#include "shardstep/comm/tcp/tcp_rendezvous.h"

namespace shardstep {

/// Collective. As CreateTcpRendezvous, but that rank 0 listens already, at a port that others could be told only then:
/// `listener`, of rank 0; of others not open. Only ranks that bring the same `key` are let in: a port that a dead job
/// has left may be another one's a moment later.
absl::StatusOr<std::unique_ptr<Rendezvous>> CreateListeningRendezvous(const TcpRendezvousOptions& options, uint64_t key,
                                                                      Descriptor listener);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_TCP_LISTENING_RENDEZVOUS_H_
