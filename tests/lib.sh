# shellcheck shell=bash
# What the test scripts share: verdicts, waiting with a limit, ending what was started. To be sourced.

passed=0 failures=0 skipped=0

ok() { passed=$((passed + 1)); echo "ok $1"; }
failed() { failures=$((failures + 1)); echo "FAILED $1: $2"; }
not_run() { skipped=$((skipped + 1)); echo "not run $1: $2"; }

# summary SUITE: the last line of a suite; its status is the suite's exit status: 0, 1 (a failure), 3 (nothing failed,
# something did not run).
summary() {
  echo "$1: $passed passed, $failures failed, $skipped not run"
  ((failures == 0)) || return 1
  ((skipped == 0)) || return 3
}

die() { echo "${0##*/}: $*" >&2; exit 1; }

# within SECONDS COMMAND...: tries COMMAND until it succeeds; fails when the time is over.
within() {
  local end=$((${EPOCHREALTIME//[.,]/} + $1 * 1000000))
  shift
  until "$@"; do
    ((${EPOCHREALTIME//[.,]/} < end)) || return 1
    sleep 0.02
  done
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# stop PID [SECONDS]: SIGTERM, then SIGKILL once SECONDS (5) are over. Quiet about a process that has ended by itself.
stop() {
  kill "$1" 2>/dev/null || return 0
  within "${2:-5}" gone "$1" && return
  kill -9 "$1" 2>/dev/null || true
  within 2 gone "$1"
}

# sealane_binary: prints the binary under test: $SEALANE, else this repository's release build.
sealane_binary() {
  local root
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  local binary=${SEALANE:-$root/target/release/sealane}
  [[ -x $binary ]] || die "no program at $binary; build it with: cargo build --release"
  readlink -f "$binary"
}
