# shellcheck shell=bash
# What fuzz/run and fuzz/deep share. To be sourced in fuzz/, behind tests/lib.sh.

version=0.13.1
memory_mib_max=1024   # the largest input opens into four buffers of 1 MiB; libFuzzer keeps the rest
input_seconds_max=25  # a session that hangs says so itself after 15
input_bytes_max=2048
files_max=150         # of one target in the corpus, with its seeds

mapfile -t all < <(sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' Cargo.toml)

# choose TARGET...: sets `targets` to these, or to all.
choose() {
  local target
  targets=("$@")
  ((${#targets[@]})) || targets=("${all[@]}")
  for target in "${targets[@]}"; do
    [[ -f fuzz_targets/$target.rs ]] || die "no target '$target' (${all[*]})"
  done
}

# give_up SUITE WHY: nothing can be run.
give_up() {
  for target in "${targets[@]}"; do not_run "$target" "$2"; done
  summary "$1"
  exit
}

# build SUITE: all of `targets`, with cargo-fuzz.
build() {
  command -v g++ >/dev/null || give_up "$1" "no g++ (tests/kernel/install as root installs it)"
  cargo fuzz --version 2>/dev/null | grep -q " $version\$" || cargo install cargo-fuzz --debug --locked --version $version ||
    give_up "$1" "cargo-fuzz $version cannot be installed"
  # `-s none`: there is no unsafe code in what is fuzzed; engine/io has tests/asan.
  for target in "${targets[@]}"; do
    cargo fuzz build -s none "$target" || { failed "$target" "it does not build"; summary "$1"; exit; }
  done
}

# program TARGET: where cargo-fuzz has put it.
program() { echo "target/x86_64-unknown-linux-gnu/release/$1"; }

# keep TARGET CORPUS SCRATCH: makes the committed corpus of the seeds, and of the inputs that reach most of what they do
# not.
keep() {
  local target=$1 new=$3/$1.new seeds
  rm -rf "$new"
  mkdir -p "$new"
  cp "corpus/$target/seed-"* "$new/"
  seeds=$(find "$new" -type f | wc -l)
  "$(program "$target")" "$new" "$2" "corpus/$target" -set_cover_merge=1 -use_counters=0 -rss_limit_mb=$memory_mib_max \
    >"$3/$target.merge.log" 2>&1 || return
  find "corpus/$target" -type f ! -name 'seed-*' -delete
  # They were written in the order of what each adds.
  find "$new" -type f ! -name 'seed-*' -printf '%T@ %p\n' | sort -n | sed -n "1,$((files_max - seeds))p" | cut -d ' ' -f 2 |
    xargs -r cp -t "corpus/$target"
}
