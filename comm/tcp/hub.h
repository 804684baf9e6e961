#ifndef SHARDSTEP_COMM_TCP_HUB_H_
#define SHARDSTEP_COMM_TCP_HUB_H_

#include <poll.h>

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/tcp/frame.h"
#include "shardstep/comm/tcp/socket.h"

namespace shardstep {

/// Rank 0's switchboard, on a thread of its own: lets ranks in, passes on to all others what a rank says, and decides
/// for all of them, in one order, which meetings are complete and which failure ends the job: the first one, of those
/// that come at the same moment the lowest rank's. It never waits for one connection, and keeps what a slow rank has
/// not taken yet: as ranks meet in lock-step, two meetings at most.
class TcpHub {
 public:
  /// `key`: what ranks bring that are to be let in. `own`: the connection of rank 0 itself; its other end must be
  /// closed before destruction.
  TcpHub(int world_size, uint64_t key, Descriptor listener, Descriptor own);
  /// First passes on what it has been given, to all that read.
  ~TcpHub();
  TcpHub(const TcpHub&) = delete;
  TcpHub& operator=(const TcpHub&) = delete;

  /// The destructor will wait for the other ranks to leave, for at most `linger`. Any thread.
  void SetLinger(absl::Duration linger);

  /// Who was turned away last and why; empty: nobody. Any thread.
  std::string LastRefusal() const;

 private:
  using Wire = std::shared_ptr<const std::string>;

  struct Peer {
    Descriptor socket;
    std::string name;
    FrameReader reader{kLargestFrameBytes};
    std::deque<Wire> unsent;  // also before it has arrived
    size_t sent_bytes = 0;    // of the first one
    uint64_t rounds = 0;      // to which it has contributed
    bool has_arrived = false;
    bool has_left = false;  // and says no more
  };
  struct Guest {  // has connected and not yet said who it is
    Descriptor socket;
    std::string name;
    FrameReader reader{0};
    absl::Time end;
  };

  void Run();
  bool Stops() const { return !peers_[0].socket.is_open(); }
  bool IsDone();
  absl::Duration Linger() const;
  std::vector<pollfd> Polled() const;
  bool HasRoom() const;
  void AcceptGuests();
  void HearGuests();
  bool IsStillGuest(Guest& guest);
  void LetIn(Guest& guest, const Frame& hello);
  void Refuse(const Guest& guest, const std::string& why);
  void HearRanks();
  void Hear(int rank);
  void Take(int rank, Frame frame);
  void Lose(int rank, const std::string& why);
  bool HasToDecide() const;
  uint64_t CompleteRounds() const;
  void Decide(uint64_t complete_rounds);
  void SendUnsent();
  void PassOn(const Frame& frame, int except_rank);

  const int world_size_;
  const uint64_t key_;
  Descriptor listener_;
  std::vector<Peer> peers_;
  std::vector<Guest> guests_;
  std::vector<Frame> failures_;  // heard since the last decision
  uint64_t decided_rounds_ = 0;
  bool has_failed_ = false;
  absl::Time stop_end_ = absl::InfiniteFuture();  // set once rank 0 is gone

  mutable Mutex mutex_;
  std::string last_refusal_ ABSL_GUARDED_BY(mutex_);
  absl::Duration linger_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();

  std::thread thread_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_TCP_HUB_H_
