#include "shardstep/comm/tcp/hub.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace shardstep {
namespace {

constexpr absl::Duration kHelloDeadline = absl::Seconds(5);
// Beside all ranks at once: strangers, who may stay silent.
constexpr size_t kMostStrangers = 64;
// What a rank that does not read may hold up the end of rank 0.
constexpr absl::Duration kFlushDeadline = absl::Seconds(1);

}  // namespace

TcpHub::TcpHub(int world_size, uint64_t key, Descriptor listener, Descriptor own)
    : world_size_(world_size), key_(key), listener_(std::move(listener)), peers_(static_cast<size_t>(world_size)) {
  peers_[0].socket = std::move(own);
  peers_[0].name = "this process";
  peers_[0].has_arrived = true;
  thread_ = std::thread([this] { Run(); });
}

TcpHub::~TcpHub() { thread_.join(); }

void TcpHub::SetLinger(absl::Duration linger) {
  MutexLock lock(&mutex_);
  linger_ = linger;
}

std::string TcpHub::LastRefusal() const {
  MutexLock lock(&mutex_);
  return last_refusal_;
}

absl::Duration TcpHub::Linger() const {
  MutexLock lock(&mutex_);
  return has_failed_ ? absl::ZeroDuration() : linger_;
}

void TcpHub::Run() {
  while (!IsDone()) {
    std::vector<pollfd> polled = Polled();
    const bool has_terms = Stops() || !guests_.empty();
    poll(polled.data(), polled.size(), has_terms ? 100 : -1);
    AcceptGuests();
    HearGuests();
    HearRanks();
    while (HasToDecide()) {
      // What made the last one come, or came before it, may have arrived when its rank had been passed already.
      const uint64_t complete_rounds = CompleteRounds();
      HearRanks();
      Decide(complete_rounds);
    }
    SendUnsent();
  }
}

bool TcpHub::IsDone() {
  if (!Stops()) return false;
  const absl::Duration linger = Linger();
  if (stop_end_ == absl::InfiniteFuture()) stop_end_ = absl::Now() + std::max(linger, kFlushDeadline);
  listener_.Close();
  if (absl::Now() >= stop_end_) return true;
  return std::all_of(peers_.begin() + 1, peers_.end(), [linger](const Peer& peer) {
    const bool is_awaited = linger > absl::ZeroDuration() && !peer.has_left;
    return !peer.socket.is_open() || (peer.unsent.empty() && !is_awaited);
  });
}

std::vector<pollfd> TcpHub::Polled() const {
  const auto entry = [](const Descriptor& socket, bool sends) {
    const short events = static_cast<short>(sends ? POLLIN | POLLOUT : POLLIN);
    return pollfd{.fd = socket.get(), .events = events, .revents = 0};  // one that is not open is passed over
  };
  std::vector<pollfd> polled;
  if (HasRoom()) polled.push_back(entry(listener_, false));
  for (const Peer& peer : peers_) polled.push_back(entry(peer.socket, !peer.unsent.empty()));
  for (const Guest& guest : guests_) polled.push_back(entry(guest.socket, false));
  return polled;
}

// Otherwise newcomers wait until others have said who they are, or had the time to.
bool TcpHub::HasRoom() const { return listener_.is_open() && guests_.size() < peers_.size() + kMostStrangers; }

void TcpHub::AcceptGuests() {
  while (HasRoom()) {
    std::string name;
    Descriptor socket = Accept(listener_, &name);
    if (!socket.is_open()) return;
    guests_.push_back({.socket = std::move(socket), .name = std::move(name), .end = absl::Now() + kHelloDeadline});
  }
}

void TcpHub::HearGuests() {
  std::vector<Guest> still_guests;
  for (Guest& guest : guests_) {
    if (IsStillGuest(guest)) still_guests.push_back(std::move(guest));
  }
  guests_ = std::move(still_guests);
}

bool TcpHub::IsStillGuest(Guest& guest) {
  std::string bytes;
  const Transfer transfer = Receive(guest.socket, &bytes);
  guest.reader.Append(bytes);
  absl::StatusOr<absl::optional<Frame>> frame = guest.reader.Next();
  if (!bytes.empty() && !frame.ok()) {
    Refuse(guest, std::string(frame.status().message()));
  } else if (!bytes.empty() && frame->has_value()) {
    LetIn(guest, **frame);
  } else if (transfer == Transfer::kClosed) {
    Refuse(guest, "it closed the connection before it said who it is");
  } else if (absl::Now() >= guest.end) {
    Refuse(guest, absl::StrCat("it did not say who it is within ", absl::FormatDuration(kHelloDeadline)));
  } else {
    return true;
  }
  return false;
}

void TcpHub::LetIn(Guest& guest, const Frame& hello) {
  if (hello.kind != FrameKind::kHello) return Refuse(guest, "it did not say who it is");
  if (hello.round != key_) return Refuse(guest, "it is of another job");
  if (hello.value != world_size_) {
    return Refuse(guest,
                  absl::StrCat("rank ", hello.rank, " has world_size ", hello.value, ", rank 0 has ", world_size_));
  }
  if (hello.rank < 1 || hello.rank >= world_size_) {
    return Refuse(guest, absl::StrCat("rank ", hello.rank, " is not in 1..", world_size_ - 1));
  }
  Peer& peer = peers_[static_cast<size_t>(hello.rank)];
  if (peer.has_arrived) {
    return Refuse(guest, absl::StrCat("rank ", hello.rank, " has arrived already, from ", peer.name));
  }
  peer.socket = std::move(guest.socket);
  peer.name = guest.name;
  peer.has_arrived = true;
  peer.unsent.push_front(std::make_shared<const std::string>(Encode({.kind = FrameKind::kWelcome})));
}

void TcpHub::Refuse(const Guest& guest, const std::string& why) {
  size_t sent_bytes = 0;
  Send(guest.socket, Encode({.kind = FrameKind::kRefused, .bytes = why}), &sent_bytes);
  MutexLock lock(&mutex_);
  last_refusal_ = absl::StrCat(guest.name, ": ", why);
}

void TcpHub::HearRanks() {
  for (int rank = 0; rank < world_size_; ++rank) Hear(rank);
}

void TcpHub::Hear(int rank) {
  Peer& peer = peers_[static_cast<size_t>(rank)];
  if (!peer.socket.is_open()) return;
  std::string bytes;
  const Transfer transfer = Receive(peer.socket, &bytes);
  peer.reader.Append(bytes);
  while (!bytes.empty()) {
    absl::StatusOr<absl::optional<Frame>> frame = peer.reader.Next();
    if (!frame.ok()) return Lose(rank, absl::StrCat("it sent ", frame.status().message()));
    if (!frame->has_value()) break;
    Take(rank, **std::move(frame));
  }
  if (transfer == Transfer::kClosed) Lose(rank, "its connection closed: it ended or was killed");
}

void TcpHub::Take(int rank, Frame frame) {
  Peer& peer = peers_[static_cast<size_t>(rank)];
  frame.rank = rank;
  if (frame.kind == FrameKind::kContribution) {
    ++peer.rounds;
    PassOn(frame, rank);
  } else if (frame.kind == FrameKind::kLeft) {
    peer.has_left = true;
    PassOn(frame, rank);
  } else if (frame.kind == FrameKind::kFailed && !has_failed_) {
    failures_.push_back(std::move(frame));
  }
}

void TcpHub::Lose(int rank, const std::string& why) {
  Peer& peer = peers_[static_cast<size_t>(rank)];
  peer.socket.Close();
  peer.unsent.clear();
  if (peer.has_left) return;
  peer.has_left = true;
  failures_.push_back({.kind = FrameKind::kFailed,
                       .rank = rank,
                       .value = static_cast<int>(absl::StatusCode::kUnavailable),
                       .bytes = absl::StrCat("failed: ", why)});
}

uint64_t TcpHub::CompleteRounds() const {
  const auto fewest = [](const Peer& a, const Peer& b) { return a.rounds < b.rounds; };
  return std::min_element(peers_.begin(), peers_.end(), fewest)->rounds;
}

bool TcpHub::HasToDecide() const { return !has_failed_ && (!failures_.empty() || CompleteRounds() > decided_rounds_); }

void TcpHub::Decide(uint64_t complete_rounds) {
  if (!failures_.empty()) {
    const auto lower = [](const Frame& a, const Frame& b) { return a.rank < b.rank; };
    has_failed_ = true;
    PassOn(*std::min_element(failures_.begin(), failures_.end(), lower), -1);
    return;
  }
  for (; decided_rounds_ < complete_rounds; ++decided_rounds_) {
    PassOn({.kind = FrameKind::kComplete, .round = decided_rounds_}, -1);
  }
}

void TcpHub::SendUnsent() {
  for (size_t rank = 0; rank < peers_.size(); ++rank) {
    Peer& peer = peers_[rank];
    while (peer.socket.is_open() && !peer.unsent.empty()) {
      const absl::string_view rest = absl::string_view(*peer.unsent.front()).substr(peer.sent_bytes);
      // A broken connection is noticed by who reads from it, after what the peer said last.
      if (Send(peer.socket, rest, &peer.sent_bytes) != Transfer::kSome) break;
      if (peer.sent_bytes < peer.unsent.front()->size()) continue;
      peer.unsent.pop_front();
      peer.sent_bytes = 0;
    }
  }
}

void TcpHub::PassOn(const Frame& frame, int except_rank) {
  const Wire wire = std::make_shared<const std::string>(Encode(frame));
  for (int rank = 0; rank < world_size_; ++rank) {
    Peer& peer = peers_[static_cast<size_t>(rank)];
    const bool is_gone = peer.has_arrived && !peer.socket.is_open();
    if (rank != except_rank && !is_gone) peer.unsent.push_back(wire);
  }
}

}  // namespace shardstep
