#!/usr/bin/env python3
"""Usage: cuda_resources_test.py OBJECT;... PTX;... ARCHITECTURE;...

Reads what the compiler said about the CUDA kernels (OBJECT.log, see cmake/keep_output.sh) and their PTX. Fails when a
kernel spills registers, or one that goes over arrays has a stack, on any architecture that is built for; and when PTX holds an
operation that the numeric contract rules out: fused, flushing, or approximate. Prints the registers of every kernel. Before
that it plants one mistake of each kind and fails if one goes unnoticed.
"""

import pathlib
import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
FORBIDDEN = re.compile(r"^\s*(?:@!?%p\d+\s+)?(fma\.|mad\.r|[\w.]*\.ftz\b|[\w.]*\.approx\b|div\.full\.)", re.MULTILINE)
# By file: what must be there, so that the check looks at the kernels it means. Loads and stores are of 16 bytes, once.
VECTORS = ["ld.global.cs.v4", "st.global.cs.v4"]
EXPECTED = {
    "cuda_update_adamw": VECTORS + ["div.rn.f32", "sqrt.rn.f32", "mul.rn.f32", "add.rn.f32"],
    "cuda_update_sgd": VECTORS + ["mul.rn.f32", "add.rn.f32"],
    "cuda_update_lion": VECTORS + ["mul.rn.f32", "add.rn.f32"],
    "cuda_reduce": VECTORS + ["mul.rn.f64", "add.rn.f64", "add.rn.f32", "shfl.sync.down"],
    "cuda_digest": ["ld.global.cs.v4", "mul.hi.u64", "shfl.sync.down", "atom.global.add.u64"],
    "cuda_decide": ["sqrt.rn.f64", "div.rn.f64", "mul.rn.f64"],
    "cuda_twins": VECTORS,
}
# Kernels of each kind on an architecture: 4 rules with and without momentum, 5 kinds of weights, 2 kinds of sums.
COUNTS = {"UpdateKernel": 40, "ReduceKernel": 2, "UpdateTwinKernel": 2, "ReduceTwinKernel": 2, "DecideKernel": 1,
          "DigestKernel": 3}
MAY_HAVE_STACK = ("DecideKernel", "ContributeKernel")


def kind_of(name):
    """The kernel's name without what was mangled to it."""
    return re.search(r"\d((?:Update|Reduce|Decide|Contribute|Digest)(?:Twin)?Kernel)", name)[1]


def kernels_of(log):
    """[{name, architecture, stack, spills, registers}] of one compiler's output."""
    kernels = []
    for line in log.splitlines():
        if entry := ENTRY.search(line):
            kernels.append({"name": entry[1], "architecture": int(entry[2])})
        elif kernels and (memory := MEMORY.search(line)):
            kernels[-1].update(stack=int(memory[1]), spills=int(memory[2]) + int(memory[3]))
        elif kernels and (registers := REGISTERS.search(line)):
            kernels[-1]["registers"] = int(registers[1])
    return kernels


def resource_errors(kernels, architectures):
    errors = []
    for kernel in kernels:
        where = f"{kernel['name']} for sm_{kernel['architecture']}"
        if not {"stack", "spills", "registers"} <= kernel.keys():
            errors.append(f"{where}: the compiler says nothing about it")
            continue
        if kernel["spills"] > 0:
            errors.append(f"{where}: {kernel['spills']} bytes of registers are spilled")
        if kernel["stack"] > 0 and kind_of(kernel["name"]) not in MAY_HAVE_STACK:
            errors.append(f"{where}: {kernel['stack']} bytes of stack")
    for architecture in architectures:
        for kind, count in COUNTS.items():
            found = sum(k["architecture"] == architecture and kind_of(k["name"]) == kind for k in kernels)
            if found != count:
                errors.append(f"{found} of {kind} for sm_{architecture}, not {count}")
    return errors


def ptx_errors(stem, ptx):
    errors = [f"{stem}.ptx: {match[0].strip()}" for match in FORBIDDEN.finditer(ptx)]
    return errors + [f"{stem}.ptx: no {what}" for what in EXPECTED.get(stem, []) if what not in ptx]


def check_that_mistakes_are_seen():
    name = "_ZN9shardstep4cuda12UpdateKernelINS0_9AdamWRuleELb1EEEvNS_10CudaUpdateE"
    good = f"Compiling entry function '{name}' for 'sm_90'\n0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    good += "Used 60 registers"
    assert resource_errors(kernels_of(good), []) == []
    for old, new in [("0 bytes spill loads", "4 bytes spill loads"), ("0 bytes stack", "8 bytes stack"), ("Used", "")]:
        assert resource_errors(kernels_of(good.replace(old, new)), []), new
    assert resource_errors(kernels_of(good), [90]), "kernels that are not there"
    for line in ["fma.rn.f32 %f1, %f2;", "@%p1 fma.rn.f64 %fd1;", "mul.ftz.f32 %f1;", "mul.rn.ftz.f32 %f1;",
                 "div.full.f32 %f1;", "sqrt.approx.f32 %f1;", "mad.rn.f32 %f1;"]:
        assert ptx_errors("", f"\t{line}\n"), line
    assert ptx_errors("", "\tmul.rn.f32 %f1, %f2;\n\tmad.lo.s64 %rd1;\n\tdiv.rn.f32 %f1;\n") == []
    assert ptx_errors("cuda_reduce", ""), "PTX of something else"


def readable(names):
    """By c++filt, without what all kernels have in common."""
    lines = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    cut = re.compile(r"\(anonymous namespace\)::|shardstep::|cuda::|void |\([^()]*\)$")
    return [cut.sub("", line) for line in lines.splitlines()]


def print_registers(kernels, architectures):
    names = sorted({kernel["name"] for kernel in kernels})
    registers = {(k["name"], k["architecture"]): k["registers"] for k in kernels}
    print("registers".ljust(60), *[f"sm_{a}".rjust(6) for a in architectures])
    for name, text in zip(names, readable(names)):
        print(text.ljust(60), *[str(registers.get((name, a), "-")).rjust(6) for a in architectures])


def main(objects, ptx_files, architectures):
    check_that_mistakes_are_seen()
    built = sorted({int(re.match(r"\d+", a)[0]) for a in architectures if not a.endswith("-virtual")})
    kernels = [k for o in objects for k in kernels_of(pathlib.Path(o + ".log").read_text(encoding="utf-8"))]
    errors = resource_errors(kernels, built)
    stems = {pathlib.Path(p).stem.removesuffix(".cu"): pathlib.Path(p) for p in ptx_files}
    errors += [f"no PTX of {stem}" for stem in EXPECTED if stem not in stems]
    for stem, path in stems.items():
        errors += ptx_errors(stem, path.read_text(encoding="utf-8"))
    if not errors:
        print_registers(kernels, built)
    print("\n".join(errors), file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*[argument.split(";") for argument in sys.argv[1:]]))
