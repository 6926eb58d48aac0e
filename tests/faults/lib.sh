# shellcheck shell=bash
# Two hosts and a router between them, each a network namespace; the tunnels, a server and a load on them; the faults;
# and the figures. To be sourced.
#
#   near 10.78.1.2                          router                          far 10.78.2.2
#   load -> sealane client (:20049)  == to-near | to-far ==  sealane server (:2049) -> NFS server (:12049)
#
# Faults of the network are made in the router, where neither end knows of them. When the script ends, however it ends,
# its processes, namespaces and files are removed.

faults=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$faults/../lib.sh"

near=sealane-near-$$ router=sealane-router-$$ far=sealane-far-$$
near_address=10.78.1.2 far_address=10.78.2.2
server_name=nfs.test
lanes=4
lab='' binary='' selftest='' why='' injected=0
declare -A pids=() fds=() rss=()

# faults_obstacle: prints what keeps the faults from being made here; nothing if they can be.
faults_obstacle() {
  local missing
  if [[ $(id -u) != 0 ]]; then
    echo "needs root"
  elif ! missing=$("$faults/../kernel/install" --check); then
    echo "needs the packages: $missing (tests/kernel/install installs them)"
  fi
}

faults_up() {
  binary=$(sealane_binary)
  selftest=${SEALANE_SELFTEST:-$faults/../../target/release/sealane-selftest}
  [[ -x $selftest ]] || die "no program at $selftest; build it with: cargo build --release -p sealane-selftest"
  trap faults_down EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  lab=$(mktemp -d -t sealane-faults.XXXXXX)
  # A build that finishes during the run must not change what is under test.
  cp "$binary" "$lab/sealane"
  cp "$selftest" "$lab/selftest"
  chmod 755 "$lab"
  hosts_up
  certificates >"$lab/openssl.log" 2>&1 || { cat "$lab/openssl.log" >&2; die "openssl could not make certificates"; }
}

faults_down() {
  local status=$? name namespace
  trap '' HUP INT TERM
  for name in "${!pids[@]}"; do end "$name"; done
  for namespace in "$near" "$router" "$far"; do ip netns del "$namespace" 2>/dev/null || true; done
  rm -rf "/etc/netns/$near"
  # Only the namespace of the last /etc/netns leaves the directory behind.
  rmdir /etc/netns 2>/dev/null || true
  [[ -z ${group:-} ]] || rmdir "$group" || true
  if mountpoint -q "$lab/disk"; then umount "$lab/disk"; fi
  if [[ -n ${KEEP:-} ]]; then echo "kept: $lab" >&2; else rm -rf "$lab"; fi
  exit "$status"
}

hosts_up() {
  local namespace
  for namespace in "$near" "$router" "$far"; do
    ip netns add "$namespace"
    ip -n "$namespace" link set lo up
  done
  ip -n "$router" link add to-near type veth peer name wire netns "$near"
  ip -n "$router" link add to-far type veth peer name wire netns "$far"
  ip -n "$router" addr add 10.78.1.1/24 dev to-near
  ip -n "$router" addr add 10.78.2.1/24 dev to-far
  ip -n "$near" addr add "$near_address/24" dev wire
  ip -n "$far" addr add "$far_address/24" dev wire
  for namespace in to-near to-far; do ip -n "$router" link set "$namespace" up; done
  for namespace in "$near" "$far"; do ip -n "$namespace" link set wire up; done
  ip -n "$near" route add default via 10.78.1.1
  ip -n "$far" route add default via 10.78.2.1
  ip netns exec "$router" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
  ip netns exec "$router" nft -f - <<'END'
table inet faults {
  chain forward { type filter hook forward priority 0; }
}
END
}

certificates() {
  make_ca "$lab" &&
    make_certificate "$lab" end "$server_name" "serverAuth, clientAuth" "IP:$far_address"
}

# launch NAMESPACE NAME COMMAND...: starts COMMAND there, with its output appended to NAME.log, or to $log_file.
launch() {
  local namespace=$1 name=$2
  shift 2
  # `ip netns exec` becomes the command, so the pid is the command's own.
  ip netns exec "$namespace" "$@" >>"${log_file:-$lab/$name.log}" 2>&1 </dev/null &
  pids[$name]=$!
  disown
}

# end NAME: a stopped process does not end before it is continued.
end() {
  local pid=${pids[$1]:-}
  [[ -n $pid ]] || return 0
  unset "pids[$1]"
  kill -CONT "$pid" 2>/dev/null || true
  stop "$pid" 3 || true
}

listening() { ip netns exec "$1" ss -Hltn "sport = :$2" | grep -q .; }
listening_or_gone() { gone "${pids[$1]}" || listening "$2" "$3"; }

# ready NAME NAMESPACE PORT
ready() {
  if within 10 listening_or_gone "$@" && ! gone "${pids[$1]}"; then return; fi
  tail -n 5 "$lab/$1.log" >&2
  die "$1 does not listen on port $3"
}

# What a case may set before `begin`: what the tunnels are started with (an environment, a wrapper), and the name that
# --connect gets.
near_wrapper=() far_wrapper=() connect_host=$far_address

start_near() {
  local log_file=${log_near:-$lab/near.log}
  launch "$near" near env RUST_LOG= "${near_wrapper[@]}" "$lab/sealane" client --listen 127.0.0.1:20049 \
    --connect "$connect_host:2049" --server-name "$server_name" --ca-file "$lab/ca.pem" "${options[@]}" "${near_options[@]}"
  ready near "$near" 20049
}

start_far() {
  launch "$far" far env RUST_LOG= "${far_wrapper[@]}" "$lab/sealane" server --listen "$far_address:2049" \
    --connect 127.0.0.1:12049 --cert "$lab/end.pem" --key "$lab/end.key" "${options[@]}" "${far_options[@]}"
  ready far "$far" 2049
}

start_nfs() {
  launch "$far" nfs "$lab/selftest" server --listen 127.0.0.1:12049 --memory-max 1024 --connections-max 512
  ready nfs "$far" 12049
}

# begin DRIVER [OPTION...]: the server and both tunnels, OPTIONs for both of these.
options=() near_options=() far_options=()
begin() {
  options=(--io "$1" "${@:2}")
  start_nfs
  start_far
  start_near
  # They say so when their threads have started, which is after they listen.
  within 5 grep -q 'listening on .*; driver ' "$lab/far.log" || blame "the tunnel at the far end does not start"
  within 5 grep -q 'listening on .*; driver ' "${log_near:-$lab/near.log}" || blame "nor that at the near end"
  for end in near far; do fds[$end]=$(open_files "$end"); done
}

# load [OPTION...]: the load, and waits until it runs on all its lanes.
load() {
  rm -f "$lab/stop"
  launch "$near" load "$lab/selftest" endure --connect 127.0.0.1:20049 --lanes "$lanes" --stop-file "$lab/stop" "$@"
  more 32 || blame "the load does not run"
  for end in near far; do rss[$end]=$(resident "$end"); done
}

now_ms() { echo $((${EPOCHREALTIME//[.,]/} / 1000)); }

# tally FIELD: the load's number now; 0 before it has printed any.
tally() {
  local value
  value=$(sed -n "s/.* $1=\([0-9]*\).*/\1/p" "$lab/load.log" 2>/dev/null | tail -n 1)
  echo "${value:-0}"
}

tally_is() { (($(tally "$1") >= $2)); }

# more MIB: waits until so much more has been written, in ten seconds.
more() { within 10 tally_is written $(($(tally written) + ($1 << 20))); }

# more_connections COUNT BEFORE: waits until there have been COUNT more than BEFORE.
more_connections() { within 20 tally_is connections $(($2 + $1)); }

# ended_since MS [HOW]: how many connections of the load ended after that time, and how many milliseconds after it the
# last. HOW is a pattern; without it only resets count.
ended_since() {
  local how=${2:-'(recv|sendmsg|connect): (Connection reset|Broken pipe)'}
  awk -v since="$1" -v how=" lane .* connection .*: $how" '$1 >= since && $0 ~ how {
    if (!($3 in seen)) { seen[$3] = 1; count++; last = $1 } }
    END { print count + 0, (count ? last - since : 0) }' "$lab/load.log"
}

all_ended_since() { (($(ended_since "$@" | cut -d' ' -f1) >= lanes)); }

# blame TEXT: a reason for which the case has failed.
blame() { why="${why:+$why; }$1"; }

open_files() { find "/proc/${pids[$1]}/fd" -mindepth 1 2>/dev/null | wc -l; }
resident() { awk '/^VmRSS/ { print $2 }' "/proc/${pids[$1]}/status" 2>/dev/null || echo 0; }
# CPU time of a process, in hundredths of a second.
cpu() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/${pids[$1]}/stat"; }
files_are_back() { (($(open_files "$1") <= fds[$1])); }
close_wait() { ip netns exec "$1" ss -Hnt state close-wait | wc -l; }
no_close_wait() { (($(close_wait "$near") + $(close_wait "$far") == 0)); }

# finish: ends the load, which reads everything back before.
finish() {
  local status=0
  touch "$lab/stop"
  within 60 gone "${pids[load]}" || blame "the load does not end"
  end load
  grep -q ' total: ' "$lab/load.log" || status=1
  (($(tally lost) == 0 && status == 0)) || blame "$(tally lost) bytes lost: $(grep -v progress "$lab/load.log" | tail -n 1)"
  (($(tally compared) > 0)) || blame "nothing was compared"
  (($(tally silent) == 0)) || blame "$(tally silent) connections neither answered nor ended"
}

# Kilobytes that a tunnel may have grown by during the faults: big buffers that stalled directions held stay resident.
growth_kb_max=$((32 << 10))

# settle: after the load nothing may be left of its connections.
settle() {
  local end grown
  within 5 no_close_wait || blame "$(close_wait "$near") and $(close_wait "$far") sockets in CLOSE-WAIT"
  for end in near far; do
    gone "${pids[$end]}" && { blame "the tunnel at the $end end is gone"; continue; }
    within 5 files_are_back "$end" || blame "$(open_files "$end") descriptors at the $end end, ${fds[$end]} before"
    grown=$(($(resident "$end") - rss[$end]))
    ((grown <= growth_kb_max)) || blame "the tunnel at the $end end grew by $grown KiB"
  done
}

# figures: the line that says what happened.
figures() {
  printf 'faults %d, connections %d (%d ended early, slowest call %d ms), compared %d MiB, lost %d' "$injected" \
    "$(tally connections)" "$(tally ended)" "$(tally slowest_ms)" $(($(tally compared) >> 20)) "$(tally lost)"
  [[ -z ${pids[near]:-} ]] || printf ', RSS %d -> %d and %d -> %d KiB' "${rss[near]:-0}" "$(resident near)" \
    "${rss[far]:-0}" "$(resident far)"
}

# --- faults of the network

forward() { ip netns exec "$router" nft add rule inet faults forward "$@"; injected=$((injected + 1)); }
# cut out|back|both
cut_wire() {
  case $1 in
    out) forward ip saddr "$near_address" drop ;;
    back) forward ip saddr "$far_address" drop ;;
    both) forward drop ;;
  esac
}
heal() { ip netns exec "$router" nft flush chain inet faults forward; }

# signal NAME SIGNAL
signal() { kill "-$2" "${pids[$1]}"; [[ $2 == CONT ]] || injected=$((injected + 1)); }
# kill_hard NAME: SIGKILL, and waits for the end.
kill_hard() {
  signal "$1" KILL
  within 2 gone "${pids[$1]}" || blame "$1 survives SIGKILL"
}

# peer NAME VERB...: peers.py, in the background, on the near host.
peer() { launch "$near" "$1" python3 "$faults/peers.py" "${@:2}"; }
# probe [SECONDS]: a connection of its own; prints how it ended, and after how many milliseconds.
probe() { ip netns exec "$near" python3 "$faults/peers.py" probe 20049 "${1:-15}"; }
# works: a whole session goes through new connections.
works() {
  ip netns exec "$near" "$lab/selftest" client --connect 127.0.0.1:20049 --passes 1 --calls 10 --path "works-$RANDOM" \
    >"$lab/works.log" 2>&1
}
