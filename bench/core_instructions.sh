#!/bin/sh
# Instructions that plan + commit + fence take a step at 256 running requests, counted by callgrind.
# The count does not depend on the machine's load, so that a change of it is a change of the code.
# Usage: bench/core_instructions.sh [steps]
set -eu

steps=${1:-500}
cd "$(dirname "$0")/.."

binary=$(cargo bench -q -p agentlm-core --bench plan --no-run --message-format=json \
    | sed -n 's/.*"executable":"\([^"]*\/plan-[^"]*\)".*/\1/p' | tail -n 1)
test -n "$binary" || { echo "the benchmark was not built; run: cargo bench -p agentlm-core --bench plan --no-run" >&2; exit 1; }
command -v valgrind > /dev/null || { echo "valgrind is not installed; install it to count instructions" >&2; exit 1; }

for name in decode churn; do
    count=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect="measure_$name" \
        "$binary" "$steps" 2>&1 | sed -n 's/.*Collected : //p')
    test -n "$count" || { echo "callgrind collected nothing for measure_$name" >&2; exit 1; }
    echo "$name: $((count / steps)) instructions a step, $((count / steps / 256)) a request"
done
