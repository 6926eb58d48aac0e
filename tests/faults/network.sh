# shellcheck shell=bash
# Faults of the network. To be sourced by run; each function is a case, its argument the driver.

# With these a dead path is noticed 3 s (--ack-timeout) after the last acknowledgement, or after the bytes that wait for
# one; where nothing is under way, so long after the first keepalive probe (1 s). The rest is for a busy host.
strict=(--ack-timeout 3 --keepalive 1 --connect-timeout 1 --retry-timeout 2)
dead_ms_min=2000 dead_ms_max=5000

# wire_case DRIVER DIRECTION: a short cut costs nothing; a cut for good ends every connection in time, on both hosts.
wire_case() {
  local ended since=0 before
  begin "$1" "${strict[@]}"
  load
  cut_wire "$2"
  sleep 1
  heal
  more 32 || blame "no progress after a cut of 1 s"
  # Until every connection has measured again how long an acknowledgement takes: it has just been a second.
  sleep 0.5
  more 64 || blame "no progress after a cut of 1 s"
  (($(tally ended) == 0)) || blame "a cut of 1 s ended connections"
  since=$(now_ms) before=$(tally connections)
  cut_wire "$2"
  within 12 all_ended_since "$since" || blame "connections outlive the network"
  read -r ended dead_ms <<<"$(ended_since "$since")"
  ((ended == lanes)) || blame "$ended of $lanes connections were reset"
  ((dead_ms >= dead_ms_min && dead_ms <= dead_ms_max)) || blame "reset after $dead_ms ms"
  within 2 no_sessions || blame "the server's end keeps $(sessions) connections to the NFS server"
  [[ $(probe) =~ ^reset\ ([0-9]+)$ ]] && ((BASH_REMATCH[1] < 4000)) || blame "a new connection is not refused in time"
  heal
  more_connections "$lanes" "$before" || blame "no new connections after the cut"
  more 32 || blame "no progress after the cut"
  note="reset after $dead_ms ms"
  finish
}
sessions() { ip netns exec "$far" ss -Hnt state established "dport = :12049" | wc -l; }
no_sessions() { (($(sessions) == 0)); }

case_cut() { wire_case "$1" both; }
case_cut-out() { wire_case "$1" out; }
case_cut-back() { wire_case "$1" back; }

# Nobody has anything to say, so keepalive alone finds out: from its next probe on it is given the 3 s.
case_cut-idle() {
  local since ends=4 all ended_ms
  begin "$1" --ack-timeout 3 --keepalive 2
  load
  launch "$near" rest python3 "$faults/peers.py" rest 20049 "$ends"
  within 5 grep -q resting "$lab/rest.log" || blame "no connections that rest"
  # Longer than until a tunnel sees that nothing is under way, and than until a probe.
  sleep 3
  [[ $(wc -l <"$lab/rest.log") == 1 ]] || blame "an idle connection ended"
  since=$(now_ms)
  cut_wire both
  within 12 all_rest_ended || blame "idle connections outlive the network"
  all=$(awk 'NR > 1 && $2 == "reset"' "$lab/rest.log")
  ended_ms=$(($(cut -d' ' -f1 <<<"$all" | sort -n | tail -n 1) - since))
  [[ $(wc -l <<<"$all") == "$ends" ]] || blame "not all of them were reset: $(tr '\n' ' ' <"$lab/rest.log")"
  # The last probe that was answered was sent up to two seconds before.
  ((ended_ms >= 2500 && ended_ms <= 7000)) || blame "reset after $ended_ms ms"
  within 4 no_sessions || blame "the server's end keeps $(sessions) connections to the NFS server"
  heal
  more 32 || blame "no progress after the cut"
  note="reset after $ended_ms ms"
  finish
}
all_rest_ended() { (($(wc -l <"$lab/rest.log") > ends)); }

# With the defaults a few seconds without a network are waited for.
case_cut-default() {
  begin "$1"
  load --idle-lanes 2
  cut_wire both
  sleep 4
  heal
  more 32 || blame "no progress after the cut"
  finish
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
}

# A RST for whatever passes the router, towards where it comes from. Who has nothing to send learns of it by keepalive.
case_reset() {
  local since ended reset_ms before
  begin "$1" --keepalive 1
  load
  since=$(now_ms) before=$(tally connections)
  forward meta l4proto tcp reject with tcp reset
  within 5 all_ended_since "$since" || blame "connections outlive a reset"
  read -r ended reset_ms <<<"$(ended_since "$since")"
  ((ended == lanes && reset_ms < 2500)) || blame "reset after $reset_ms ms"
  heal
  more_connections "$lanes" "$before" || blame "no new connections"
  more 32 || blame "no progress after the reset"
  note="reset after $reset_ms ms"
  finish
}

# 8 Mbit/s in each direction, which is 1 MB/s.
case_slow-network() {
  local device from bytes seconds=5 before_ms
  begin "$1"
  load
  for device in to-near to-far; do
    tc -n "$router" qdisc add dev "$device" root tbf rate 8mbit burst 64kb latency 400ms
  done
  injected=2
  sleep 1
  from=$(($(tally written) + $(tally compared))) before_ms=$(now_ms)
  sleep $seconds
  bytes=$(($(tally written) + $(tally compared) - from))
  ((bytes > 0)) || blame "no progress at 8 Mbit/s"
  # Both directions, and a call that was almost done on each lane.
  ((bytes < 2 * 1000000 * ($(now_ms) - before_ms) / 1000 + lanes * 1048576)) || blame "the network was not limited"
  for device in to-near to-far; do tc -n "$router" qdisc del dev "$device" root; done
  more 32 || blame "no progress after the limit"
  note="$((bytes / seconds / 1000)) kB/s"
  finish
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
}

# The router's routes take packets of 1280 bytes only, of connections that had larger ones: path MTU discovery.
case_mtu() {
  local namespace
  begin "$1"
  load
  for namespace in "$near" "$far"; do
    has_mss "$namespace" 1300 99999 || blame "packets were small before"
  done
  ip -n "$router" route replace 10.78.1.0/24 dev to-near mtu lock 1280
  ip -n "$router" route replace 10.78.2.0/24 dev to-far mtu lock 1280
  injected=2
  more 64 || blame "no progress with an MTU of 1280"
  for namespace in "$near" "$far"; do
    within 3 has_mss "$namespace" 1 1280 || blame "packets are as large as before"
  done
  finish
  ip -n "$router" route replace 10.78.1.0/24 dev to-near
  ip -n "$router" route replace 10.78.2.0/24 dev to-far
  for namespace in "$near" "$far"; do ip -n "$namespace" route flush cache; done
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
}
# has_mss NAMESPACE LEAST MOST: every TLS connection there sends segments of so many bytes.
has_mss() {
  ip netns exec "$1" ss -Hnti state established '( sport = :2049 or dport = :2049 )' |
    sed -n 's/.* mss:\([0-9]*\) .*/\1/p' |
    awk -v least="$2" -v most="$3" '$1 < least || $1 > most { wrong = 1 } END { exit NR == 0 || wrong }'
}
