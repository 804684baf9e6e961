#!/usr/bin/env bash
# tools/scaling.sh: its table follows from the bench's own times, its pictures are drawn, and what fails ends it.
. "$(dirname "$0")/lib.sh"
scaling=("$source_dir/tools/scaling.sh" --bench "$binary_dir/tools/bench/shardstep_bench" --parameters 200000)
short=(-- --steps 3 --warmup 1)

# refuses NAMED ARGUMENT...: before anything runs.
refuses() {
  ends_with 64 "${scaling[@]}" --out "$work/refused" "${@:2}"
  says "scaling.sh: " "$1"
  [ ! -e "$work/refused" ] || fail "${*:2} left something"
}
refuses '--mode "strongest"' --mode strongest
refuses '--parameters "0"' --parameters=0
refuses '--ranks "1 2 many"' --ranks "1 2 many"
refuses '--hosts "5"' --hosts 5
refuses '--ranks_per_host "-1"' --ranks_per_host -1
refuses '--rate "1gb"' --rate 1gb
refuses "--ranks and --hosts" --ranks= --hosts ""
refuses --colour --colour red
refuses --mode --mode
refuses stray stray
refuses --model=gpt2-124m -- --model=gpt2-124m
refuses --backward_ms=3 -- --backward_ms=3
ends_with 78 "${scaling[@]}" --bench "$work/nothing"
says "$work/nothing"

ends_with 78 "${scaling[@]}" --bench "$(type -P true)" --out "$work/failed" --ranks 1 --hosts ""
says "--bench: it measured nothing"
cat >"$work/bench" <<'EOF'
#!/bin/sh
echo '{"wire":"exact","parameters":1,"step_ms":0.001,"floor_ms":0.000}' >"$4"
EOF
chmod +x "$work/bench"
ends_with 64 "${scaling[@]}" --bench "$work/bench" --out "$work/failed" --ranks 1 --hosts ""
says "--parameters: 1 take no time"

# Ends with the code of the run that fails, and without pictures.
ends_with 64 "${scaling[@]}" --out "$work/failed" --ranks 1 --hosts "" -- --rule none
says "strong scaling ended at 1 ranks with 64"
# shellcheck disable=SC2016 # the program's own variables
printf '#!/bin/sh\n[ "$OMPI_COMM_WORLD_SIZE" = 1 ] || exit 75\nexec "%s" "$@"\n' "${scaling[2]}" >"$work/bench"
ends_with 75 "${scaling[@]}" --bench "$work/bench" --out "$work/failed" --ranks "1 2" --hosts "" --mode weak \
  "${short[@]}"
says "weak scaling ended at 2 ranks with 75"
[ "$(ls "$work/failed")" = scaling.csv ] || fail "a run that failed left $(ls "$work/failed")"
[ "$(wc -l <"$work/failed/scaling.csv")" = 2 ] || fail "not one row: $(cat "$work/failed/scaling.csv")"

# Where hosts cannot be emulated, that is said.
mkdir "$work/bin"
printf '#!/bin/sh\necho no namespaces >&2\nexit 1\n' >"$work/bin/unshare"
chmod +x "$work/bin/unshare"
ends_with 0 env PATH="$work/bin:$PATH" "${scaling[@]}" --out "$work/one host" --mode weak --ranks 1 "${short[@]}"
says "scaling.sh: nothing over hosts: " "several hosts on one machine"
[ "$(wc -l <"$work/one host/scaling.csv")" = 2 ] || fail "not one row: $(cat "$work/one host/scaling.csv")"
ends_with 77 env PATH="$work/bin:$PATH" "${scaling[@]}" --out "$work/none" --ranks "" "${short[@]}"
says "scaling.sh: nothing over hosts: "

hosts="1 2"
if ! "$source_dir/tests/hosts.sh" check; then
  echo "not tested here: rows over hosts"
  hosts=
fi
out="$work/it's out"
said=$("${scaling[@]}" --out "$out" --ranks="1 2" --hosts "$hosts" --ranks_per_host 2 --rate 1gbit "${short[@]}" \
  --baselines mpi_fp32 2>&1) || fail "scaling.sh ended with $?: $said"
says "$out/scaling.csv"
says "floor_efficiency"
! grep -qi 'warning' <<<"$said" || fail "gnuplot complains: $said"

python3 - "$out/scaling.csv" "$hosts" <<'EOF' || fail "the table: $(cat "$out/scaling.csv")"
import csv
import itertools
import sys

path, hosts = sys.argv[1:]
rows = list(csv.DictReader(open(path)))
header = list(rows[0])
assert header[:6] == ["scaling", "over", "rate", "parameters", "ranks", "hosts"], header
assert header[-2:] == ["efficiency", "floor_efficiency"], header
assert {"rule", "wire", "step_ms", "step_ms_min", "step_ms_max", "floor_ms", "floor_ratio"} < set(header), header

wanted = [(1, 1), (2, 1)]
over_hosts = [(2, 1), (4, 2)] if hosts else []
for wire in "exact", "mpi_fp32":
    for scaling in "strong", "weak":
        for over, counts in ("ranks", wanted), ("hosts", over_hosts):
            ours = [row for row in rows if (row["scaling"], row["over"], row["wire"]) == (scaling, over, wire)]
            assert [(int(row["ranks"]), int(row["hosts"])) for row in ours] == counts, (scaling, over, ours)
            for row in ours:
                first, ranks = ours[0], int(row["ranks"])
                assert int(row["parameters"]) == 200000 * (ranks if scaling == "weak" else 1), row
                assert row["rate"] == ("1gbit" if row["hosts"] == "2" else ""), row
                assert float(row["step_ms_min"]) <= float(row["step_ms"]) <= float(row["step_ms_max"]), row
                for efficiency, time in ("efficiency", "step_ms"), ("floor_efficiency", "floor_ms"):
                    share = float(first[time]) / float(row[time])
                    if scaling == "strong":
                        share *= int(first["ranks"]) / ranks
                    assert abs(float(row[efficiency]) - share) < 1e-4, (efficiency, share, row)
EOF
echo "the table follows from its times"

# titled TITLE SUBTITLE
titled() {
  grep -A 3 "$1" "$out/scaling.svg" | grep -q "$2" || fail "the picture has no panel '$1', '$2'"
}
titled "Strong scaling over ranks" "200 k parameters, one host"
titled "Weak scaling over ranks" "200 k parameters per rank, one host"
if [ -n "$hosts" ]; then
  titled "Strong scaling over hosts" "200 k parameters, 2 ranks per host, 1 Gbit/s"
  titled "Weak scaling over hosts" "200 k parameters per rank, 2 ranks per host, 1 Gbit/s"
fi
for tag in '^<svg' '</svg>'; do grep -q "$tag" "$out/scaling.svg" || fail "scaling.svg has no $tag"; done
head -c 8 "$out/scaling.png" | cmp -s - <(printf '\211PNG\r\n\032\n') || fail "scaling.png is none"
[ "$(wc -c <"$out/scaling.png")" -gt 10000 ] || fail "scaling.png is empty"
echo "drawn: strong and weak scaling"
