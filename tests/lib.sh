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

# Where copies of the tree are changed and built, so that a test can be seen to fail.
original=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
copies=$original/target/copies

# copy_tree: the workspace, as git knows its files, afresh at $copies/tree; fuzz/ is another workspace. The files are new
# (tar -m): cargo goes by their times, and must not take what was built from an earlier copy for built.
copy_tree() {
  rm -rf "$copies/tree"
  mkdir -p "$copies/tree"
  (cd "$original" && git ls-files -z -- . ':!fuzz' | tar --null -cf - -T -) | tar -xmf - -C "$copies/tree"
}

# build_copy PROGRAM: builds it to $copies/debug. What is not of this workspace is taken from the original's own debug build,
# where it is the same (--workspace: the same features). What is to be noticed in a copy is so within seconds, for which
# nobody waits for the optimizer forty times.
build_copy() {
  local package options=()
  for package in sealane-io sealane-relay sealane-sim; do options+=(--config "profile.dev.package.$package.opt-level=0"); done
  [[ -e $copies/debug ]] || take_built
  (cd "$copies/tree" && CARGO_TARGET_DIR=$copies cargo build --locked --quiet "${options[@]}" --workspace --bin "$1" \
    2>"$copies/build.log") || { cat "$copies/build.log"; return 1; }
}

# take_built: what the original has built of others' packages, to $copies/debug. A copy, because cargo writes into its files in
# place; and without this workspace's, which a change made in between would leave to be taken for the changed tree's.
take_built() {
  local from=$original/target/debug part
  mkdir -p "$copies/debug/deps"
  for part in .fingerprint build; do [[ ! -e $from/$part ]] || cp -a "$from/$part" "$copies/debug/"; done
  rm -rf "$copies"/debug/.fingerprint/sealane* "$copies"/debug/build/sealane*
  find "$from/deps" -maxdepth 1 -type f ! -name '*sealane*' \
    \( -name '*.rlib' -o -name '*.rmeta' -o -name '*.so' -o -name '*.d' \) -exec cp -a -t "$copies/debug/deps" {} + 2>/dev/null || true
}

# make_ca DIR: the key and the certificate of a CA, ca.key and ca.pem.
make_ca() {
  cat >"$1/openssl.cnf" <<END
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
END
  openssl req -config "$1/openssl.cnf" -x509 -extensions ca -newkey rsa:2048 -nodes -days 120 -subj "/CN=Sealane test CA" \
    -keyout "$1/ca.key" -out "$1/ca.pem"
}

# make_certificate DIR FILE NAME USAGE [ALTERNATIVE...]: FILE.key and FILE.pem for the DNS name NAME, from the CA of make_ca.
# USAGE is an extended key usage, ALTERNATIVE a further subject alternative name.
make_certificate() {
  local names
  names=$(printf ', %s' "DNS:$3" "${@:5}")
  cat >"$1/$2.cnf" <<END
[end]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = $4
subjectAltName = ${names#, }
END
  openssl req -config "$1/openssl.cnf" -newkey rsa:2048 -nodes -subj "/CN=$3" -keyout "$1/$2.key" -out "$1/$2.csr" &&
    openssl x509 -req -in "$1/$2.csr" -CA "$1/ca.pem" -CAkey "$1/ca.key" -CAcreateserial -days 90 -extfile "$1/$2.cnf" \
      -extensions end -out "$1/$2.pem"
}

# ganesha DIR ADDRESS PORT: writes DIR/ganesha.conf, for an NFSv4 server there that has DIR/export as its root, and prints
# the command that runs it. Neither rpcbind nor D-Bus nor kernel support is needed.
ganesha() {
  mkdir -p "$1/export" "$1/recovery" /var/lib/nfs/ganesha
  cat >"$1/ganesha.conf" <<END
NFS_CORE_PARAM {
  NFS_Port = $3; Bind_addr = $2; Protocols = 4; NFS_Protocols = 4;
  Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
  Plugins_Dir = "$(echo /usr/lib/*/ganesha)";
}
NFSv4 {
  Graceless = true; Lease_Lifetime = 60; Grace_Period = 5; Minor_Versions = 1, 2;
  RecoveryBackend = fs; RecoveryRoot = "$1/recovery";
  Only_Numeric_Owners = true; Allow_Numeric_Owners = true;
}
NFS_KRB5 { Active_krb5 = false; }
EXPORT {
  Export_Id = 1; Path = "$1/export"; Pseudo = /; Protocols = 4; Transports = TCP;
  Access_Type = RW; Squash = No_Root_Squash; SecType = sys; PrivilegedPort = false;
  MaxRead = 1048576; MaxWrite = 1048576; PrefRead = 1048576; PrefWrite = 1048576;
  FSAL { Name = VFS; }
}
LOG { Default_Log_Level = EVENT; Facility { name = FILE; destination = "$1/ganesha.log"; enable = active; } }
END
  echo "ganesha.nfsd -F -f $1/ganesha.conf -L $1/ganesha.log -p $1/ganesha.pid"
}
