# shellcheck shell=bash
# What a host runs out of, and what it says that is wrong: names, descriptors, memory, disk, time. To be sourced by run;
# each function is a case, its argument the driver.

start_resolver() {
  launch "$near" resolver dnsmasq -k --no-resolv --no-hosts --user=root --pid-file= --bind-interfaces \
    --listen-address=127.0.0.1 --address="/$server_name/$far_address"
  within 5 answering_names || die "the resolver does not listen"
}
answering_names() { ip netns exec "$near" ss -Hlun 'sport = :53' | grep -q .; }

# refused WHAT SINCE_LINE TEXT MS_MAX: a new connection is reset in time, with one line in the log, which has TEXT.
refused() {
  local from how
  from=$(wc -l <"$lab/near.log")
  how=$(probe)
  [[ $how =~ ^reset\ ([0-9]+)$ ]] && ((BASH_REMATCH[1] <= $3)) || blame "$1: a new connection ended so: $how"
  within 2 logged_one "$from" "$2" ||
    blame "$1: the log says: $(tail -n "+$((from + 1))" "$lab/near.log" | grep -E ' (WARN|ERROR) ' | tail -n 3)"
  note="${note:+$note, }$1: $how ms"
}
logged_one() {
  local lines
  lines=$(tail -n "+$(($1 + 1))" "$lab/near.log" | grep -E ' (WARN|ERROR) ')
  [[ $(wc -l <<<"$lines") == 1 && $lines == *$2* ]]
}

# The name was found at the start; then nobody answers: refused at once, or silent.
case_names-gone() {
  local before
  mkdir -p "/etc/netns/$near"
  echo "nameserver 127.0.0.1" >"/etc/netns/$near/resolv.conf"
  connect_host=$server_name
  start_resolver
  begin "$1" --retry-timeout 3
  load
  kill_hard resolver
  refused "no resolver" "cannot resolve $server_name" 4000
  start_resolver
  signal resolver STOP
  refused "a silent resolver" "no answer from the resolver" 4000
  more 32 || blame "connections that were there do not go on"
  signal resolver CONT
  within 10 works || blame "no new connections after the resolver came back: $(tail -n 1 "$lab/works.log")"
  finish
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
  end resolver
  rm -rf "/etc/netns/$near"
}

# For each tunnel: descriptors for three connections more, and forty that come.
case_descriptors() {
  local end free used before
  begin "$1" --retry-timeout 2 --handshake-timeout 2 --connect-timeout 1
  load --payload 64 --pause 20 --idle-lanes 1
  for end in near far; do
    prlimit --pid "${pids[$end]}" --nofile="$(($(open_files "$end") + 6)):$(ulimit -Hn)"
    injected=$((injected + 1))
    peer hold hold 20049 40
    sleep 1.5
    (($(open_files "$end") >= ${fds[$end]} + 6)) || blame "descriptors were not used up at the $end end"
    before=$(tally written)
    used=$(cpu "$end")
    sleep 3
    used=$(($(cpu "$end") - used))
    ((used < 90)) || blame "the tunnel at the $end end used ${used}0 ms of CPU time in 3 s"
    (($(tally written) > before)) || blame "connections that were there do not go on at the $end end"
    note="${note:+$note, }$end: CPU ${used}0 ms in 3 s, $(tail -n 1 "$lab/hold.log" | cut -d' ' -f1,2) of 40"
    prlimit --pid "${pids[$end]}" --nofile="$(ulimit -Hn):$(ulimit -Hn)"
    end hold
    : >"$lab/hold.log"
    within 10 works || blame "no new connections after descriptors came back at the $end end"
  done
  grep -q 'accept: Too many open files' "$lab/near.log" || blame "the client's tunnel does not say why"
  finish
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
}

# group_make: a control group whose memory can be limited, of version 2 or 1; fails where this host has none.
group_make() {
  local top
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]] && grep -qw memory /sys/fs/cgroup/cgroup.subtree_control; then
    top=/sys/fs/cgroup group_limit=memory.max group_events=memory.events
  elif [[ -w /sys/fs/cgroup/memory ]]; then
    top=/sys/fs/cgroup/memory group_limit=memory.limit_in_bytes group_events=memory.oom_control
  else
    return 1
  fi
  group=$top/sealane-faults-$$
  mkdir "$group" 2>/dev/null
}
group_remove() { within 3 rmdir "$group" 2>/dev/null || true; }

# socket_buffers RECEIVE SEND: the least, first and largest sizes, on both hosts.
socket_buffers() {
  local namespace
  for namespace in "$near" "$far"; do
    ip netns exec "$namespace" sh -c 'echo "$0" >/proc/sys/net/ipv4/tcp_rmem; echo "$1" >/proc/sys/net/ipv4/tcp_wmem' "$@"
  done
}

# stalled: for two seconds nobody took another byte from the peers.
stalled() {
  local line
  line=$(tail -n 1 "$lab/stall.log")
  sleep 2
  [[ $line == live* && $line == "$(tail -n 1 "$lab/stall.log")" ]]
}

# Peers that take no replies, twice as many as the buffers have room for, with a limit on the process a little above
# --memory-max: neither is it killed, nor do connections that read suffer.
case_memory() {
  local limit_mib=64 memory_mib=32 killed taken
  if ! group_make; then
    unable="this host lets nobody limit the memory of a process group"
    return
  fi
  echo $((limit_mib << 20)) >"$group/$group_limit"
  growth_kb_max=$((memory_mib << 10))
  # All that these peers can fill is filled: with the kernel's usual 6 MiB a socket it would run out of memory for TCP,
  # on this host as a whole, and slow down everybody.
  socket_buffers "4096 65536 262144" "4096 16384 262144"
  # On a slow host all of them shake hands at the same time, from one address.
  far_options=(--handshakes-per-address-max 256)
  begin "$1" --memory-max ${memory_mib}M --connections-max 200
  # From outside: the namespace has a /sys of its own.
  echo "${pids[near]}" >"$group/cgroup.procs"
  load
  peer stall stall 20049 100
  injected=100
  within 40 stalled || blame "the peers do not stall"
  taken=$(tail -n 1 "$lab/stall.log")
  [[ $taken == "live 100 "* ]] || blame "stalled peers were cut: $taken"
  more 32 || blame "connections that read do not go on"
  gone "${pids[near]}" && blame "the tunnel is gone"
  killed=$(sed -n 's/^oom_kill \([0-9]*\)/\1/p' "$group/$group_events")
  ((${killed:-0} == 0)) || blame "the kernel killed for memory"
  note="$limit_mib MiB for a tunnel with --memory-max ${memory_mib}M, $(awk '/^VmHWM/ { print $2 }' "/proc/${pids[near]}/status") KiB used at the most; stalled peers: $taken bytes"
  end stall
  socket_buffers "4096 131072 6291456" "4096 16384 4194304"
  more 32 || blame "no progress after the peers went"
  finish
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
}

# The disk of the log is full; then somebody makes room.
case_disk-full() {
  local lines lost
  mkdir -p "$lab/disk"
  mount -t tmpfs -o size=16k tmpfs "$lab/disk"
  log_near=$lab/disk/near.log
  begin "$1" --log-level debug
  load
  for _ in {1..60}; do probe 1 >/dev/null & done
  wait
  injected=1
  (($(df --output=avail "$lab/disk" | tail -n 1) == 0)) || blame "the disk is not full"
  more 64 || blame "no progress with a full disk"
  lines=$(wc -l <"$log_near")
  : >"$log_near"
  works || blame "no new connections"
  within 3 grep -q 'log lines were lost' "$log_near" || blame "nothing says that lines were lost"
  lost=$(sed -n 's/^sealane: \([0-9]*\) log lines were lost.*/\1/p' "$log_near" | head -n 1)
  ((${lost:-0} > 10)) || blame "only '$lost' lines were lost"
  note="$lines log lines kept, $lost lost and counted"
  finish
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
}

# The wall clocks of both tunnels are set years ahead and back: established connections go on; certificates are judged by
# the new time. Only those processes see it.
case_clock() {
  local library step
  library=$(echo /usr/lib/*/faketime/libfaketimeMT.so.1)
  if [[ ! -e $library ]]; then
    unable="needs the package faketime"
    return
  fi
  echo +0 >"$lab/clock"
  near_wrapper=(env LD_PRELOAD="$library" FAKETIME_TIMESTAMP_FILE="$lab/clock" FAKETIME_NO_CACHE=1
    FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1)
  far_wrapper=("${near_wrapper[@]}")
  near_options=(--cert "$lab/end.pem" --key "$lab/end.key")
  far_options=(--client-ca "$lab/ca.pem")
  begin "$1"
  load --idle-lanes 2
  for step in "+1200d expired" "-1200d not valid yet"; do
    echo "${step%% *}" >"$lab/clock"
    injected=$((injected + 1))
    more 32 || blame "no progress after the step of ${step%% *}"
    refused "${step%% *}" "${step#* }" 4000
  done
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
  echo +0 >"$lab/clock"
  works || blame "no new connections with the right time: $(tail -n 1 "$lab/works.log")"
  finish
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
}
