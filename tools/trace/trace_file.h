#ifndef SHARDSTEP_TOOLS_TRACE_TRACE_FILE_H_
#define SHARDSTEP_TOOLS_TRACE_TRACE_FILE_H_

#include <string>

#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/trace/trace_recording.h"

namespace shardstep {

/// Collective, between steps and after SetTrace(nullptr). Rank 0 writes every rank's spans to `file`, of rank 0, as
/// JSON that Perfetto reads (ui.perfetto.dev): Chrome's trace events. Every rank is a process, every stream a thread.
///
/// Times are since the earliest span. Ranks of one host have the same clock; clocks of hosts are joined by their wall
/// clocks, as they are during this call, so arrows of time between hosts are as good as those agree.
///
/// The operating system's refusal names the file and is every rank's error.
absl::Status WriteTrace(Rendezvous& rendezvous, const TraceRecording& recording, const std::string& file);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRACE_TRACE_FILE_H_
