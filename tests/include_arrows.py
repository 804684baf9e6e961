#!/usr/bin/env python3
"""Usage: tests/include_arrows.py [ROOT]

Reads every include of the rooms and fails on a wrong arrow: tools -> runtime -> {optimizer, comm} -> proto. Before that it
plants one wrong include of each kind in a copy and fails if one of them goes unnoticed.
"""

import pathlib
import re
import shutil
import sys
import tempfile

ROOMS = {  # room -> rooms that it may include
    "proto": {"proto"},
    "comm": {"comm", "proto"},
    "optimizer": {"optimizer", "comm", "proto"},
    "runtime": {"runtime", "optimizer", "comm", "proto"},
    "tools": {"tools", "runtime", "optimizer", "comm", "proto"},
}
# All of comm that the optimizer room may know: arithmetic needs no ranks.
VOCABULARY = {
    "bf16.h",
    "buffer.h",
    "cuda/cuda_api.h",
    "cuda/cuda_stream.h",
    "dtype.h",
    "host_device.h",
    "host_memory.h",
    "host_stream.h",
    "memory.h",
    "mutex.h",
    "slice.h",
    "small_reduction.h",
    "status.h",
    "stream.h",
}
# What a trainer includes; everything that these reach is installed, and knows no third party but Abseil.
TRAINER_HEADERS = [
    "runtime/sharded_optimizer.h",
    "comm/inproc/thread_rendezvous.h",
    "comm/mpi/mpi_communicator.h",
    "comm/mpi/mpi_rendezvous.h",
    "comm/shm/shared_memory_communicator.h",
    "comm/tcp/job_id.h",
    "comm/tcp/tcp_rendezvous.h",
    "comm/tcp/side_rendezvous.h",
    "comm/cuda/cuda_device.h",
    "comm/nccl/nccl_levels.h",
    "comm/shm/host_id.h",
    "comm/staged/staged_levels.h",
    "runtime/cuda_backend.h",
    "runtime/job.h",
    "runtime/joint_decision.h",
    "runtime/options_text.h",
    "runtime/shardstep.h",
]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
THIRD_PARTY = re.compile(r"^(mpi\.h|google/|cuda|nccl|hwy/|nlohmann/|xxhash|dnnl)|\.pb\.h$")


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def wrong_arrow(file, include):
    """Why `file`, relative to the root, may not include `include`; None if it may."""
    room = file.parts[0]
    if include == "mpi.h" and file.parts[:2] != ("comm", "mpi") and not file.match("tools/bench/mpi_*.cc"):
        return "only comm/mpi and what it is measured against know MPI"
    if include.endswith(".pb.h") and file.suffix == ".h":
        return "messages stay out of headers"
    if not include.startswith("shardstep/"):
        return None
    parts = include.split("/")[1:]
    if file.stem == "reference_step":
        return "what judges the library knows nothing of it"
    if parts[0] not in ROOMS[room]:
        return f"{room} may not know {parts[0]}"
    if room == "optimizer" and parts[0] == "comm" and "/".join(parts[1:]) not in VOCABULARY:
        return "optimizer may know the vocabulary of comm only"
    # The one file that builds without MPI leave out.
    if parts[:2] == ["comm", "mpi"] and room not in ("comm", "tools") and file.name != "job_mpi.cc":
        return "a job started otherwise needs no MPI"
    return None


def check_rooms(root):
    errors = []
    for room in ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix not in (".h", ".cc", ".inc"):
                continue
            file = path.relative_to(root)
            for delimiter, include in includes(path):
                why = wrong_arrow(file, include)
                own = include.startswith("shardstep/")
                if why is None and own and not include.endswith(".pb.h") and not (root / include[10:]).is_file():
                    why = "no such file"
                if why is None and delimiter == '"' and not own and (root / room / include).is_file():
                    why = "includes of this project read shardstep/<room>/<file>"
                if why is not None:
                    errors.append(f"{file}: {include}: {why}")
    return errors


def check_trainer_headers(root):
    errors = []
    reached = set()
    waiting = [header for header in TRAINER_HEADERS]
    while waiting:
        header = waiting.pop()
        if header in reached:
            continue
        reached.add(header)
        for _, include in includes(root / header):
            if THIRD_PARTY.search(include):
                errors.append(f"{header}: {include}: reached from a trainer's header")
            elif include.startswith("shardstep/"):
                waiting.append(include[10:])
    installed = set(re.findall(r"\S+\.h", (root / "cmake/headers.cmake").read_text(encoding="utf-8")))
    errors += [f"{header}: reached from a trainer's header, not installed" for header in sorted(reached - installed)]
    errors += [f"{header}: installed, not reached from a trainer's header" for header in sorted(installed - reached)]
    return errors


def check(root):
    return check_rooms(root) + check_trainer_headers(root)


PLANTS = [  # file, include line, what the report must say
    ("comm/status.h", '#include "shardstep/runtime/options.h"', "comm may not know runtime"),
    ("comm/shm/futex.cc", '#include "shardstep/optimizer/adamw.h"', "comm may not know optimizer"),
    ("optimizer/digest.cc", '#include "shardstep/comm/communicator.h"', "vocabulary"),
    ("optimizer/digest.cc", '#include "shardstep/comm/shm/futex.h"', "vocabulary"),
    ("optimizer/digest.cc", '#include "shardstep/runtime/options.h"', "optimizer may not know runtime"),
    ("runtime/step_plan.cc", '# include  "shardstep/tools/exit_code.h"', "runtime may not know tools"),
    ("runtime/step_plan.cc", '#include "shardstep/tests/runtime/training_job.h"', "runtime may not know tests"),
    ("runtime/step_plan.cc", "#include <mpi.h>", "know MPI"),
    ("tools/bench/mpi_baselines.h", "#include <mpi.h>", "know MPI"),
    ("tools/bench/flat_model.cc", "#include <mpi.h>", "know MPI"),
    ("runtime/step_plan.cc", '#include "shardstep/comm/mpi/mpi_rendezvous.h"', "needs no MPI"),
    ("tools/exit_code.h", '#include "shardstep/proto/train.pb.h"', "messages stay out of headers"),
    ("tools/reference/reference_step.cc", '#include "shardstep/comm/bf16.h"', "knows nothing of it"),
    ("comm/mpi/mpi_rendezvous.h", "#include <mpi.h>", "reached from a trainer's header"),
    ("optimizer/shard_layout.h", "#include <google/protobuf/message.h>", "reached from a trainer's header"),
    ("runtime/options.h", '#include "shardstep/runtime/manifest.h"', "not installed"),
    ("comm/nccl/nccl_levels.h", "#include <nccl.h>", "reached from a trainer's header"),
    ("comm/cuda/cuda_device.h", "#include <cuda_runtime_api.h>", "reached from a trainer's header"),
    ("runtime/step_plan.cc", '#include "shardstep/runtime/nothing.h"', "no such file"),
    ("runtime/step_plan.cc", '#include "step_plan.h"', "read shardstep/<room>/<file>"),
]


def unnoticed_plants(root):
    errors = []
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "copy"
        for part in [*ROOMS, "cmake"]:
            shutil.copytree(root / part, copy / part)
        for file, line, report in PLANTS:
            path = copy / file
            text = path.read_text(encoding="utf-8")
            path.write_text(line + "\n" + text, encoding="utf-8")
            if not any(error.startswith(file) and report in error or report == "not installed" and report in error
                       for error in check(copy)):
                errors.append(f"{file}: a planted {line} goes unnoticed")
            path.write_text(text, encoding="utf-8")
    return errors


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[1])
    errors = check(root) or unnoticed_plants(root)
    for error in errors:
        print(error)
    print(f"include_arrows: {len(errors)} wrong" if errors else f"include_arrows: all right, {len(PLANTS)} plants found")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
