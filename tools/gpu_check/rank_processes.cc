#include "shardstep/tools/gpu_check/rank_processes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "shardstep/comm/tcp/socket.h"

namespace shardstep::gpu_check {
namespace {

// A process and the end of its standard output that is read here.
class RankProcess {
 public:
  static absl::StatusOr<RankProcess> Start(const std::string& program, std::vector<std::string> arguments) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
    RankProcess process;
    process.output_ = Descriptor(ends[0]);
    const Descriptor writing(ends[1]);
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, writing.get(), STDOUT_FILENO);
    const int error = posix_spawn(&process.pid_, program.c_str(), &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat("start of ", program));
    return process;
  }
  ~RankProcess() { Kill(); }
  RankProcess(RankProcess&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)),
        output_(std::move(other.output_)),
        text_(std::move(other.text_)),
        wait_status_(other.wait_status_) {}
  RankProcess& operator=(RankProcess&&) = delete;

  bool is_open() const { return output_.is_open(); }
  int descriptor() const { return output_.get(); }
  const std::string& text() const { return text_; }

  // What has come; ends the process's story when it has closed its output.
  void Read() {
    char bytes[4096];
    const ssize_t count = read(output_.get(), bytes, sizeof(bytes));
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (count > 0) {
      text_.append(bytes, static_cast<size_t>(count));
      return;
    }
    output_.Close();
    Reap();
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    Reap();
  }
  absl::Status Ending(int rank) const {
    if (WIFEXITED(wait_status_) && WEXITSTATUS(wait_status_) == 0) return absl::OkStatus();
    const std::string how = WIFSIGNALED(wait_status_) ? absl::StrCat("by signal ", WTERMSIG(wait_status_))
                                                      : absl::StrCat("with ", WEXITSTATUS(wait_status_));
    const std::vector<std::string> lines = absl::StrSplit(text_, '\n', absl::SkipWhitespace());
    return absl::InternalError(
        absl::StrCat("rank ", rank, " ended ", how, lines.empty() ? "" : ": ", lines.empty() ? "" : lines.back()));
  }

 private:
  RankProcess() = default;
  void Reap() {
    while (waitpid(pid_, &wait_status_, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
  }

  pid_t pid_ = -1;
  Descriptor output_;
  std::string text_;
  int wait_status_ = 0;
};

// Reads until all have ended, or the end has come: those that have not.
std::vector<int> ReadAll(std::vector<RankProcess>& processes, absl::Time end) {
  while (true) {
    std::vector<pollfd> waiting;
    std::vector<int> ranks;
    for (size_t rank = 0; rank < processes.size(); ++rank) {
      if (!processes[rank].is_open()) continue;
      waiting.push_back({.fd = processes[rank].descriptor(), .events = POLLIN, .revents = 0});
      ranks.push_back(static_cast<int>(rank));
    }
    if (ranks.empty() || absl::Now() >= end) return ranks;
    if (poll(waiting.data(), waiting.size(), PollTimeoutMs(end)) <= 0) continue;
    for (size_t i = 0; i < waiting.size(); ++i) {
      if (waiting[i].revents != 0) processes[static_cast<size_t>(ranks[i])].Read();
    }
  }
}

}  // namespace

absl::StatusOr<std::string> FreeLoopbackAddress() {
  const Descriptor socket_descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket_descriptor.is_open()) return absl::ErrnoToStatus(errno, "socket");
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(socket_descriptor.get(), generic, size) != 0 || getsockname(socket_descriptor.get(), generic, &size) != 0) {
    return absl::ErrnoToStatus(errno, "a free port");
  }
  return absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
}

absl::StatusOr<std::vector<std::string>> RunRankProcesses(
    const std::string& program, int ranks, const std::function<std::vector<std::string>(int rank)>& arguments,
    absl::Duration deadline) {
  std::vector<RankProcess> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    SHARDSTEP_ASSIGN_OR_RETURN(RankProcess process, RankProcess::Start(program, arguments(rank)));
    processes.push_back(std::move(process));
  }
  const std::vector<int> late = ReadAll(processes, absl::Now() + deadline);
  if (!late.empty()) {
    return absl::DeadlineExceededError(
        absl::StrCat("ranks ", absl::StrJoin(late, ", "), " had not ended after ", absl::FormatDuration(deadline)));
  }
  std::vector<std::string> texts;
  for (int rank = 0; rank < ranks; ++rank) {
    SHARDSTEP_RETURN_IF_ERROR(processes[static_cast<size_t>(rank)].Ending(rank));
    texts.emplace_back(absl::StripTrailingAsciiWhitespace(processes[static_cast<size_t>(rank)].text()));
  }
  return texts;
}

}  // namespace shardstep::gpu_check
