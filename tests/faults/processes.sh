# shellcheck shell=bash
# Processes that stop, die and come back. To be sourced by run; each function is a case, its argument the driver.

# stop_case DRIVER NAME: a process is stopped for three seconds in the middle of writes. Its kernel goes on to
# acknowledge until its buffers are full: no connection may end.
stop_case() {
  local written
  # Shorter than the stop: a closed window is no dead path.
  begin "$1" --ack-timeout 1
  load --idle-lanes 2
  signal "$2" STOP
  sleep 1
  written=$(tally written)
  sleep 2
  (($(tally written) == written)) || blame "the load goes on without $2"
  signal "$2" CONT
  more 64 || blame "no progress after $2 went on"
  finish
  (($(tally ended) == 0)) || blame "$(tally ended) connections ended"
}
case_stop-server() { stop_case "$1" nfs; }
case_stop-client-tunnel() { stop_case "$1" near; }
case_stop-server-tunnel() { stop_case "$1" far; }

# A server that acknowledges and never answers: only --silence-timeout can tell. An idle connection is owed nothing.
case_server-silent() {
  local since ended silent_ms before
  if ! "$lab/sealane" client --help | grep -q -- --silence-timeout; then
    unable="there is no --silence-timeout"
    return
  fi
  begin "$1" --retry-timeout 2
  kill_hard near
  near_options=(--silence-timeout 3)
  start_near
  injected=0
  load --idle-lanes 2
  # Until the idle ones have written what they read in the end.
  more 256 || blame "the load does not run on"
  since=$(now_ms) before=$(tally connections)
  signal nfs STOP
  within 12 all_ended_since "$since" || blame "connections outlive a silent server"
  read -r ended silent_ms <<<"$(ended_since "$since")"
  ((ended == lanes)) || blame "$ended of $lanes connections were reset"
  ((silent_ms >= 2500 && silent_ms <= 5500)) || blame "reset after $silent_ms ms"
  signal nfs CONT
  more_connections "$lanes" "$before" || blame "no new connections"
  more 32 || blame "no progress after the silence"
  note="reset after $silent_ms ms"
  ended=$(tally ended)
  finish
  # At the end the idle ones make calls again.
  (($(tally ended) == ended)) || blame "an idle connection was cut"
}

# restart_case DRIVER NAME SIGNAL: three times in the middle of writes, and started again at once.
restart_case() {
  local kill before since
  begin "$1"
  load
  for kill in 1 2 3; do
    since=$(now_ms) before=$(tally connections)
    signal "$2" "$3"
    within 3 gone "${pids[$2]}" || { blame "$2 survives SIG$3"; kill_hard "$2"; }
    # What a killed process leaves unread makes a RST, else the kernel sends a FIN.
    within 3 all_ended_since "$since" . || blame "connections outlive their tunnel"
    "start_$2"
    more_connections "$lanes" "$before" || blame "no new connections after restart $kill"
    more 32 || blame "no progress after restart $kill"
  done
  rss[$2]=$(resident "$2")
  finish
  (($(tally ended) >= 3 * lanes)) || blame "only $(tally ended) connections ended"
}
case_kill-client-tunnel() { restart_case "$1" near KILL; }
case_kill-server-tunnel() { restart_case "$1" far KILL; }
case_term-client-tunnel() { restart_case "$1" near TERM; }
case_term-server-tunnel() { restart_case "$1" far TERM; }

# nfs-ganesha, whose files outlive it, in place of the server in memory.
start_nfs_with_files() {
  # shellcheck disable=SC2046 # words
  launch "$far" nfs $(ganesha "$lab" 127.0.0.1 12049)
  ready nfs "$far" 12049
}

case_kill-server() {
  local kill before
  begin "$1"
  end nfs
  start_nfs_with_files
  load
  for kill in 1 2; do
    before=$(tally connections)
    kill_hard nfs
    start_nfs_with_files
    more_connections "$lanes" "$before" || blame "no new connections after restart $kill"
    more 32 || blame "no progress after restart $kill"
  done
  finish
  (($(tally ended) >= 2 * lanes)) || blame "only $(tally ended) connections ended"
}

# One pair of tunnels, many faults: what remains of them.
case_many-faults() {
  local round resident_first end
  begin "$1" --user-timeout 3 --keepalive 1
  load --idle-lanes 2
  for round in 1 2 3 4; do
    cut_wire both; sleep 0.4; heal; more 8 || blame "no progress after a cut in round $round"
    forward meta l4proto tcp reject with tcp reset; sleep 0.3; heal; more 8 || blame "nor after a reset"
    signal nfs STOP; sleep 0.4; signal nfs CONT; more 8 || blame "nor after the server stopped"
    signal near STOP; sleep 0.3; signal near CONT; more 8 || blame "nor after the client's tunnel stopped"
    signal far STOP; sleep 0.3; signal far CONT; more 8 || blame "nor after the server's tunnel stopped"
    if ((round == 1)); then
      for end in near far; do rss[$end]=$(resident "$end"); done
      growth_kb_max=$((8 << 10))
    fi
  done
  finish
}

# What has to be noticed, is: a server that forgets what it promised, and a byte that is changed on its way.
case_check-forgets() {
  begin "$1"
  load
  kill_hard nfs
  start_nfs
  more 32 || blame "no progress after the server came back"
  finish
  [[ $why == *" bytes lost: "* ]] && (($(tally lost) >= lanes << 20)) && why='' || why="not noticed${why:+; $why}"
}
case_check-changes() {
  begin "$1"
  load --spoil 3
  finish
  [[ $why == *" bytes lost: "* ]] && (($(tally lost) >= lanes * 4096)) && why='' || why="not noticed${why:+; $why}"
}
