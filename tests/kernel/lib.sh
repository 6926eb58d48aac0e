# shellcheck shell=bash
# A lab: a real Linux NFS client (a kernel running as a process), a tunnel, a TLS server and an NFS server, in a network
# namespace of their own. To be sourced; `lab` is the same by hand.
#
#   guest kernel 10.77.0.2 --tap--> 10.77.0.1: sealane client --TLS--> stunnel --> nfs-ganesha
#
# Only the kernel's NFS client is inside the guest: its system calls are slow, so everything that is measured or tested
# against runs outside. Any number of labs can run beside each other: addresses and ports are the namespace's, all state
# is in the lab's directory. When the script ends, however it ends, its processes, namespace and directory are removed.

kernel=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$kernel/../lib.sh"

host=10.77.0.1
server_name=nfs.test
nfs_port=12049
# The kernel's NFS client moves 1 MiB in one call; a large MTU keeps the emulated wire out of the way.
mtu=16000
guest_mib=1024

lab='' affinity='' namespace=${SEALANE_LAB:-sealane-lab-$$} binary=''
declare -A pids=()

# lab_obstacle: prints what keeps the lab from running here; nothing if it can.
lab_obstacle() {
  local missing
  if [[ $(id -u) != 0 ]]; then
    echo "needs root"
  elif [[ ! -c /dev/net/tun ]]; then
    echo "needs /dev/net/tun"
  elif ! missing=$("$kernel/install" --check); then
    echo "needs the packages: $missing (tests/kernel/install installs them)"
  fi
}

# lab_up: the directory, the namespace with its tap device, the certificates. Arranges for lab_down at exit.
lab_up() {
  binary=$(sealane_binary)
  if ip netns list | grep -qw -- "$namespace"; then
    die "the namespace $namespace exists already"
  fi
  trap lab_down EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  lab=$(mktemp -d -t sealane-lab.XXXXXX)
  mkdir "$lab/export" "$lab/guest"
  # A build that finishes during the run must not change what is under test.
  cp "$binary" "$lab/sealane"
  ip netns add "$namespace"
  ip -n "$namespace" link set lo up
  # The guest's kernel opens the device with exactly these flags.
  ip netns exec "$namespace" ip tuntap add dev tap0 mode tap vnet_hdr
  ip -n "$namespace" addr add "$host/24" dev tap0
  ip -n "$namespace" link set tap0 mtu "$mtu" up
  lab_certificates
}

lab_down() {
  local status=$? name
  trap '' HUP INT TERM
  # The client first: a kernel that loses its server tries again instead of ending.
  for name in guest "${!pids[@]}"; do
    [[ -z ${pids[$name]:-} ]] || end "$name" || true
  done
  if ip netns list | grep -qw -- "$namespace"; then ip netns del "$namespace" || true; fi
  if [[ -n ${KEEP:-} ]]; then echo "kept: $lab" >&2; else rm -rf "$lab"; fi
  exit "$status"
}

lab_certificates() {
  {
    make_ca "$lab" &&
      make_certificate "$lab" server "$server_name" serverAuth "IP:$host" &&
      make_certificate "$lab" client client.test clientAuth
  } >"$lab/openssl.log" 2>&1 || { cat "$lab/openssl.log" >&2; die "openssl could not make certificates"; }
}

# launch NAME COMMAND...: starts COMMAND in the namespace, with its output appended to NAME.log. Where `affinity` is set, it may
# use these processors only.
launch() {
  local name=$1
  shift
  # `ip netns exec` becomes the command, so the pid is the command's own.
  ip netns exec "$namespace" ${affinity:+taskset -c "$affinity"} "$@" >>"$lab/$name.log" 2>&1 </dev/null &
  pids[$name]=$!
  # Unknown to the shell's job control, which would report each one that is killed.
  disown
}

listening() { ip netns exec "$namespace" ss -Hltn "sport = :$1" | grep -q .; }
alive_until_listening() { gone "${pids[$1]}" || listening "$2"; }

# ready NAME PORT: NAME listens on PORT; a dead or late one is shown with its log. Nothing connects to PORT for this: a
# probe would be a connection in the logs of what is under test.
ready() {
  if within 10 alive_until_listening "$1" "$2" && ! gone "${pids[$1]}"; then return; fi
  tail -n 5 "$lab/$1.log" >&2
  die "$1 does not listen on port $2"
}

end() {
  local pid=${pids[$1]}
  unset "pids[$1]"
  stop "$pid"
}

# nfs_server: nfs-ganesha with $lab/export as its NFSv4 root.
nfs_server() {
  # shellcheck disable=SC2046 # words
  launch ganesha $(ganesha "$lab" "$host" "$nfs_port")
  ready ganesha "$nfs_port"
}

# tls_server NAME PORT [MIN MAX]: stunnel in front of the NFS server, speaking only the TLS versions from MIN to MAX.
tls_server() {
  cat >"$lab/$1.conf" <<END
foreground = yes
pid =
debug = notice
[nfs]
accept = $host:$2
connect = $host:$nfs_port
cert = $lab/server.pem
key = $lab/server.key
sslVersionMin = TLSv${3:-1.2}
sslVersionMax = TLSv${4:-${3:-1.3}}
END
  launch "$1" stunnel4 "$lab/$1.conf"
  ready "$1" "$2"
}

# stunnel_client NAME PORT TLS_PORT [LINE...]: the rival of the same kind, verifying as much as sealane does; LINEs are added
# to its service.
stunnel_client() {
  cat >"$lab/$1.conf" <<END
foreground = yes
pid =
debug = info
[nfs]
client = yes
accept = $host:$2
connect = $host:$3
CAfile = $lab/ca.pem
verifyChain = yes
checkHost = $server_name
$(printf '%s\n' "${@:4}")
END
  launch "$1" stunnel4 "$lab/$1.conf"
  ready "$1" "$2"
}

# tunnel NAME PORT TLS_PORT [OPTION...]: the program under test. Its NFS client is at the other end of a tap device.
tunnel() {
  local name=$1 port=$2 tls_port=$3
  shift 3
  launch "$name" env RUST_LOG= "$lab/sealane" client --listen "$host:$port" --connect "$host:$tls_port" \
    --ca-file "$lab/ca.pem" --allow-non-loopback-listen "$@"
  ready "$name" "$port"
}

# front NAME PORT [OPTION...]: the program under test as TLS server in front of the NFS server.
front() {
  local name=$1 port=$2
  shift 2
  launch "$name" env RUST_LOG= "$lab/sealane" server --listen "$host:$port" --connect "$host:$nfs_port" \
    --cert "$lab/server.pem" --key "$lab/server.key" "$@"
  ready "$name" "$port"
}

# guest SECONDS JOB [KEY=VALUE...]: boots the guest kernel; it runs guest/JOB as root with the variables given. What the
# job writes to /run/lab is in $lab/guest here, at once; its output is $lab/guest.log. Power off after at most SECONDS.
guest() {
  local seconds=$1 job=$2 modules variable memory=/dev/shm
  shift 2
  cp "$kernel"/guest/* "$lab/guest/"
  rm -f "$lab/guest/status"
  for variable; do echo "${variable%%=*}=$(printf %q "${variable#*=}")"; done >"$lab/guest/env"
  echo "$job" >"$lab/guest/job"
  # modprobe wants the modules below lib/modules.
  modules=$(echo /usr/lib/uml/modules/*)
  mkdir -p "$lab/lib/modules"
  ln -sfn "$modules" "$lab/lib/modules/${modules##*/}"
  # The guest's memory is a file. On a file system that is too small for it, the kernel dies in the middle of the job.
  (($(df --output=avail -m /dev/shm 2>/dev/null | tail -n 1 || echo 0) > guest_mib + 64)) || memory=$lab
  # With a process namespace of its own, nothing of the guest outlives its first process. That is a shell, because the
  # kernel as first process could not abort.
  cc -shared -fPIC -O1 -o "$lab/xstate.so" "$kernel/xstate.c" || die "xstate.c does not compile"
  launch guest env -i PATH="$PATH" TMPDIR="$memory" timeout -k 2 "$seconds" unshare --pid --fork --kill-child \
    sh -c 'LD_PRELOAD=$1; shift; export LD_PRELOAD; "$@"; exit' - "$lab/xstate.so" linux.uml mem="${guest_mib}M" rootfstype=hostfs rootflags=/ ro quiet init="$lab/guest/init" \
    uml_dir="$lab/" umid=uml con=null con0=null,fd:1 \
    "vec0:transport=tap,ifname=tap0,depth=128,gro=1,mtu=$mtu" LAB="$lab" MTU="$mtu" HOST="$host"
}

# guest_status SECONDS: waits for the guest's end and returns the job's status; 125 if the job did not end.
guest_status() {
  within "$1" gone "${pids[guest]}" || true
  end guest
  return "$(cat "$lab/guest/status" 2>/dev/null || echo 125)"
}
