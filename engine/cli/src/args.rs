//! The command line. `--help`, defaults and ranges stand here once.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use rustls::pki_types::ServerName;
use sealane_io::sandbox::Demand;
use sealane_relay::{
    Allow, CaOptions, CrlOptions, Endpoint, ExpectedName, IoChoice, Pin, ProxyProtocol, RevokedLive, Spin, TlsVersions,
};

use crate::crl::CrlArguments;
use crate::ocsp::{OcspArguments, StapleArguments};
use crate::tls::PolicyArguments;

/// A userspace TLS tunnel for NFS
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = FIRST_STEPS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const FIRST_STEPS: &str = "\
'sealane demo' shows it at work, 'sealane bench' how fast, 'sealane check' why a server is not reached. 'sealane client --help' and 'sealane server --help' have examples.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Accept NFS clients in plain text on this host and speak TLS to their server
    #[command(after_long_help = CLIENT_EXAMPLES)]
    Client(Box<ClientOptions>),
    /// Accept TLS clients and speak plain text to the NFS server behind
    #[command(after_long_help = SERVER_EXAMPLES)]
    Server(Box<ServerOptions>),
    /// Show it all at work on this host: an NFS client and server in memory, both tunnels, TLS between them
    #[command(after_long_help = DEMO_EXAMPLES)]
    Demo(DemoOptions),
    /// Measure what NFS calls cost through Sealane on this host, next to its stunnel; or through a tunnel that is there
    #[command(after_long_help = BENCH_EXAMPLES)]
    Bench(BenchOptions),
    /// Try the server of a client's options step by step, and say what is wrong
    #[command(after_long_help = CHECK_EXAMPLES)]
    Check(Box<CheckOptions>),
    /// Serve the tunnels of a configuration file of our own, in one process
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(RunOptions),
    /// Serve the tunnels of a configuration file of stunnel's, or say what each of its lines becomes
    #[command(after_long_help = STUNNEL_EXAMPLES)]
    Stunnel(StunnelOptions),
    /// Serve the tunnel of a configuration file that a mount helper has written for efs-proxy
    #[command(after_long_help = EFS_PROXY_EXAMPLES)]
    EfsProxy(EfsProxyOptions),
}

const CLIENT_EXAMPLES: &str = "\
Examples:
  A server whose certificate is signed by a public CA:
      sealane client --listen 127.0.0.1:20049 --connect nfs.example.com:2049
      mount -t nfs4 -o vers=4.1,rsize=1048576,wsize=1048576,port=20049,proto=tcp,hard 127.0.0.1:/ /mnt

  A private CA, a client certificate, an address instead of the name:
      sealane client --listen 127.0.0.1:20049 --connect 10.0.0.5:2049 --server-name nfs.example.com \\
          --ca-file /etc/sealane/ca.pem --cert /etc/sealane/client.pem --key /etc/sealane/client.key

Exit status: 0 after SIGTERM or SIGINT, 1 when the tunnel could not start, 2 for a wrong command line.";

const SERVER_EXAMPLES: &str = "\
Examples:
  In front of an NFS server on the same host that listens on loopback, port 12049:
      sealane server --listen 0.0.0.0:2049 --connect 127.0.0.1:12049 \\
          --cert /etc/sealane/server.pem --key /etc/sealane/server.key

  Only for clients with a certificate of our own CA:
      sealane server --listen '[::]:2049' --connect 127.0.0.1:12049 \\
          --cert /etc/sealane/server.pem --key /etc/sealane/server.key --client-ca /etc/sealane/clients-ca.pem

  An export with 'secure' (the default of exports(5)) wants a client port below 1024. Without --source-port privileged
  (which needs CAP_NET_BIND_SERVICE) export with 'insecure', to this host only:
      /srv/nfs  127.0.0.1(rw,insecure)

Exit status: 0 after SIGTERM or SIGINT, 1 when the tunnel could not start, 2 for a wrong command line.";

const CHECK_EXAMPLES: &str = "\
Looks the server up, connects to each of its addresses, shakes hands, shows its certificates and what is known of their
status, and sends the NULL call of NFS through a tunnel of its own. Takes the options of 'sealane client'; --listen means nothing.

Examples:
  sealane check --connect nfs.example.com:2049
  sealane check --connect 10.0.0.5:2049 --server-name nfs.example.com --ca-file /etc/sealane/ca.pem --ocsp hard
  sealane check --connect nfs.example.com:2049 --json | jq '.steps[] | select(.ok | not)'

Exit status: 0 when an NFS server answered, 1 when something is wrong, 2 for a wrong command line.";

const RUN_EXAMPLES: &str = "\
The file is TOML. Its keys are the options of 'sealane client' and 'sealane server'. Those of the process stand first:
connections-max, drain, group, io, log-level, memory-max, sandbox, spin, user, workers; besides control-socket, log-file and pid-file. A tunnel is a table:

  workers = 2

  [tunnels.home]
  mode = \"client\"
  listen = \"127.0.0.1:20049\"
  connect = \"nfs.example.com:2049\"
  ca-file = [\"/etc/sealane/ca.pem\"]

Environment: SEALANE_WORKERS and the like override keys of the process, SEALANE_HOME__CONNECT and the like those of [tunnels.home].

Examples:
  sealane run --check /etc/sealane/sealane.toml
  sealane run /etc/sealane/sealane.toml

  A new version of the program, or of the file, goes on where the process that serves it is:
      sealane run --replace --background /etc/sealane/sealane.toml

Exit status: 0 after SIGTERM or SIGINT, or when the file is well, 1 when the tunnels could not start, 2 for a wrong command line or file.";

#[derive(Args, Debug)]
pub(crate) struct RunOptions {
    /// The configuration file
    #[arg(value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// Read the file, and what it names, say whether the tunnels could start, and do nothing else
    #[arg(long, conflicts_with = "explain")]
    pub(crate) check: bool,

    /// Say which command line each tunnel is, and do nothing else
    #[arg(long)]
    pub(crate) explain: bool,

    /// Take the place of the process that serves the tunnels of this file: it goes on until this one is ready, nobody who connects
    /// is refused meanwhile, and its connections end when their calls are answered (--drain)
    #[arg(long, conflicts_with_all = ["check", "explain"])]
    pub(crate) replace: bool,

    /// Go on in the background once the tunnels serve
    #[arg(long, conflicts_with_all = ["check", "explain"])]
    pub(crate) background: bool,
}

const STUNNEL_EXAMPLES: &str = "\
Examples:
  sealane stunnel --explain /etc/stunnel/nfs.conf
  sealane stunnel --check /etc/stunnel/nfs.conf
  sealane stunnel /etc/stunnel/nfs.conf

  In stunnel's place, for whoever starts it by that name:
      ln -s /usr/bin/sealane /usr/local/bin/stunnel

Exit status: 0 after SIGTERM or SIGINT, or when the file was explained or its servers are well, 1 when the tunnels could not start, 2 for a wrong command line or file.";

#[derive(Args, Debug)]
pub(crate) struct StunnelOptions {
    /// The configuration file
    #[arg(value_name = "FILE", required_unless_present = "keys")]
    pub(crate) config: Option<PathBuf>,

    /// Try the server of each client's service, as 'sealane check' does, and do nothing else
    #[arg(long, conflicts_with = "explain")]
    pub(crate) check: bool,

    /// List what becomes of each key of stunnel's, as the rows of a table in Markdown
    #[arg(long, conflicts_with_all = ["config", "explain", "check"])]
    pub(crate) keys: bool,

    /// Say what each line becomes, and which options of 'sealane client' or 'sealane server' each service, and do nothing else
    #[arg(long)]
    pub(crate) explain: bool,
}

const EFS_PROXY_EXAMPLES: &str = "\
Of the file accept, connect, CAfile, checkHost, sni, cert, key, OCSPaia, pid, debug and output count; other lines change nothing.
Without CAfile nothing is verified, and without --tls there is no TLS, as with efs-proxy.

Examples:
  In efs-proxy's place under a mount helper, which starts it by its name:
      ln -s /usr/bin/sealane /usr/sbin/efs-proxy

  What a file becomes:
      sealane efs-proxy --explain --tls /var/run/efs/stunnel-config.fs-0123456789abcdef0.mnt.efs.20070

Exit status: 0 after SIGTERM or SIGINT, or when the file was explained, 1 when the tunnel could not start, 2 for a wrong command line or file.";

#[derive(Args, Debug)]
pub(crate) struct EfsProxyOptions {
    /// The configuration file
    #[arg(value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// Speak TLS. Without it all is carried in plain text
    #[arg(long)]
    pub(crate) tls: bool,

    /// Say what each line becomes, and do nothing else
    #[arg(long)]
    pub(crate) explain: bool,

    /// Mount helpers say it: nothing is read from elsewhere in any case
    #[arg(long, hide = true)]
    pub(crate) no_direct_s3_read: bool,
}

const DEMO_EXAMPLES: &str = "\
Writes and reads 1 GiB in calls of 1 MiB, compares every byte, and makes 20,000 small calls. It needs no privileges, uses
loopback only, takes less than half a minute, and leaves nothing behind.

Examples:
  sealane demo
  sealane demo --io epoll --tls 1.2
  sealane demo --json | jq .read.mib_per_second

Exit status: 0 when every byte came back as it was written, 1 when not, 2 for a wrong command line.";

#[derive(Args, Debug)]
pub(crate) struct DemoOptions {
    /// How bytes are moved; auto takes io_uring where the host allows it and says so
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) io: Io,

    /// TLS versions
    #[arg(long, value_enum, value_name = "VERSIONS", default_value = "1.2-1.3")]
    pub(crate) tls: Tls,

    /// Print one JSON object instead of text, also about a failure
    #[arg(long)]
    pub(crate) json: bool,

    /// What the tunnels log on standard error; RUST_LOG overrides it
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"], default_value = "warn")]
    pub(crate) log_level: String,

    /// How often the files (64 MiB) are written and read; for tests
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=1024), default_value = "16", hide = true)]
    pub(crate) passes: u32,

    /// GETATTR calls one at a time, and again as many 16 at a time; for tests
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..=1_000_000), default_value = "10000", hide = true)]
    pub(crate) calls: u64,

    /// Change a byte behind the tunnels' back, so that the demo fails; for tests
    #[arg(long, hide = true)]
    pub(crate) spoil: bool,
}

const BENCH_EXAMPLES: &str = "\
Without --connect everything is on this host and in memory; it needs no privileges and leaves nothing behind. It takes
less than a minute, or four windows for each proxy and round.

With --connect the calls go to a tunnel that listens already, and through it to its server: NULL and GETATTR of the root,
READ of the file that --path names, and with --write WRITE and READ in a directory sealane-bench-PID that is made
for it and removed; only who kills it has to remove that.

Examples:
  sealane bench
  sealane bench --json | jq '.figures[] | select(.work == \"read\")'
  sealane bench --svg bench.svg --rounds 5
  sealane bench --connect 127.0.0.1:20049 --path data/big.iso

Exit status: 0, 1 when something could not be measured, 2 for a wrong command line.";

#[derive(Args, Debug)]
pub(crate) struct BenchOptions {
    /// Measure this tunnel, which listens already, instead of our own
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) connect: Option<Endpoint>,

    /// Let --connect be an address that is not on this host
    #[arg(long, requires = "connect")]
    pub(crate) allow_remote: bool,

    /// READ this file, which is there: its path from the root of the export
    #[arg(long, value_name = "FILE", requires = "connect")]
    pub(crate) path: Option<String>,

    /// WRITE and READ too, 64 MiB in a directory of the root that is made for it and removed
    #[arg(long, requires = "connect")]
    pub(crate) write: bool,

    /// Length of each window, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_window, default_value = "1")]
    pub(crate) seconds: Duration,

    /// Windows of each proxy and kind of call
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=50), default_value = "3")]
    pub(crate) rounds: u32,

    /// TCP connections of the NFS client
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=4), default_value = "1")]
    pub(crate) connections: usize,

    /// TLS versions
    #[arg(long, value_enum, value_name = "VERSIONS", default_value = "1.2-1.3", conflicts_with = "connect")]
    pub(crate) tls: Tls,

    /// How the other end of TLS moves bytes
    #[arg(long, value_enum, default_value = "auto", conflicts_with = "connect")]
    pub(crate) io: Io,

    /// The stunnel to compare with [default: the one on the PATH]
    #[arg(long, value_name = "FILE", conflicts_with = "connect")]
    pub(crate) stunnel: Option<PathBuf>,

    /// Print one JSON object instead of text, also about a failure
    #[arg(long)]
    pub(crate) json: bool,

    /// Draw the figures into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    /// What the other end of TLS logs on standard error; RUST_LOG overrides it
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"], default_value = "error")]
    pub(crate) log_level: String,
}

#[derive(Args, Debug)]
pub(crate) struct ClientOptions {
    /// Where NFS clients connect, in plain text: ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:20049")]
    pub(crate) listen: SocketAddr,

    /// Let --listen be an address that others can reach. Whoever reaches it speaks to the server with this host's
    /// rights, and what goes over that network is plain text
    #[arg(long, help_heading = "Trust")]
    pub(crate) allow_non_loopback_listen: bool,

    /// The TLS server, looked up again for each connection
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) connect: Endpoint,

    /// Trust only the CAs in this PEM file instead of the host's; repeatable
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    pub(crate) ca_file: Vec<PathBuf>,

    /// Trust the CAs in this directory, under the names that 'openssl rehash' gives them; repeatable
    #[arg(long, value_name = "DIRECTORY", help_heading = "Trust")]
    pub(crate) ca_dir: Vec<PathBuf>,

    /// The name or address that the server's certificate must be valid for; repeatable: one of them. *.example.com: it must have
    /// that very name [default: the host of --connect]
    #[arg(long, value_name = "NAME", help_heading = "Trust")]
    pub(crate) server_name: Vec<ExpectedName>,

    /// Accept a certificate of these CAs for any name: whoever has one of them can be the server
    #[arg(long, conflicts_with_all = ["server_name", "insecure_no_verify", "pin_only"], help_heading = "Trust")]
    pub(crate) any_server_name: bool,

    /// Accept only certificates that are in --ca-file or --ca-dir themselves
    #[arg(long, conflicts_with_all = ["insecure_no_verify", "pin_only"], help_heading = "Trust")]
    pub(crate) trusted_only: bool,

    /// By which name the server is asked for (SNI), or off [default: the first --server-name]
    #[arg(long, value_name = "NAME|off", value_parser = parse_sni, help_heading = "Trust")]
    pub(crate) sni: Option<Sni>,

    /// The server's key must have this hash, besides all else: SHA-256 of its SubjectPublicKeyInfo; repeatable: one of them
    #[arg(long, value_name = "sha256/BASE64", value_parser = parse_pin, conflicts_with = "insecure_no_verify", help_heading = "Trust")]
    pub(crate) pin: Vec<Pin>,

    /// A pinned key is enough, whoever has signed its certificate, for whichever name, until whenever: for self-signed ones
    #[arg(long, requires = "pin", conflicts_with_all = ["ca_file", "ca_dir", "server_name", "insecure_no_verify"], help_heading = "Trust")]
    pub(crate) pin_only: bool,

    /// Our certificate chain in PEM, for servers that want one
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Trust")]
    pub(crate) cert: Option<PathBuf>,

    /// The private key of --cert in PEM, not encrypted
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Trust")]
    pub(crate) key: Option<PathBuf>,

    /// Accept any server certificate. Anybody on the network can then read and change the files
    #[arg(long, help_heading = "Trust", conflicts_with_all = ["ca_file", "ca_dir"])]
    pub(crate) insecure_no_verify: bool,

    /// Carry plain text to a server that speaks no TLS, as mount helpers have a tunnel do. Anybody on the network can read and
    /// change the files
    #[arg(long, help_heading = "Trust", conflicts_with_all = ["ca_file", "ca_dir", "server_name", "any_server_name", "trusted_only", "sni", "pin", "cert", "insecure_no_verify", "crl_file", "crl_dir"])]
    pub(crate) no_tls: bool,

    #[command(flatten)]
    pub(crate) ocsp: OcspArguments,

    #[command(flatten)]
    pub(crate) crl: CrlArguments,

    #[command(flatten)]
    pub(crate) tunnel: TunnelOptions,
}

impl ClientOptions {
    /// The files that are read, those in directories included.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let named = self.ca_file.iter().chain(&self.cert).chain(&self.key).chain(self.crl.files()).cloned();
        named.chain(files_in(&self.ca_dir, self.crl.directories())).collect()
    }

    /// The directories of which all that counts is read.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.ca_dir.iter().chain(self.crl.directories()).cloned().collect()
    }
}

#[derive(Args, Debug)]
pub(crate) struct CheckOptions {
    #[command(flatten)]
    pub(crate) client: ClientOptions,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ServerOptions {
    /// Where TLS clients connect: ADDRESS:PORT; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:2049")]
    pub(crate) listen: SocketAddr,

    /// The NFS server, in plain text, looked up again for each connection
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) connect: Endpoint,

    /// Our certificate chain in PEM, our own certificate first
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    pub(crate) cert: PathBuf,

    /// The private key of --cert in PEM, not encrypted
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    pub(crate) key: PathBuf,

    /// Demand a client certificate that a CA in this PEM file has signed; repeatable [default: any client may connect]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    pub(crate) client_ca: Vec<PathBuf>,

    /// The same for the CAs in this directory, under the names that 'openssl rehash' gives them; repeatable
    #[arg(long, value_name = "DIRECTORY", help_heading = "Trust")]
    pub(crate) client_ca_dir: Vec<PathBuf>,

    /// Accept only certificates that are in --client-ca or --client-ca-dir themselves
    #[arg(long, help_heading = "Trust")]
    pub(crate) trusted_only: bool,

    /// Whether a client has to show a certificate
    #[arg(long, value_enum, value_name = "WHETHER", default_value = "required", help_heading = "Trust")]
    pub(crate) client_cert: ClientCert,

    /// Let in only clients whose certificate has this: dns:NAME, ip:ADDRESS, uri:URI, subject:RFC4514 or pin:sha256/BASE64;
    /// repeatable: one of them
    #[arg(long, value_name = "KIND:VALUE", value_parser = parse_allow, help_heading = "Trust")]
    pub(crate) allow: Vec<Allow>,

    #[command(flatten)]
    pub(crate) staple: StapleArguments,

    #[command(flatten)]
    pub(crate) crl: CrlArguments,

    /// TLS handshakes in progress at the same time, in equal shares for the threads; one more ends the one that has got
    /// least far
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000), default_value = "256", help_heading = "Resources")]
    pub(crate) handshakes_max: usize,

    /// TLS handshakes of one address in progress at the same time, in equal shares for the threads; one more ends the one of
    /// them that has got least far. An IPv6 address counts with its /64
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000), default_value = "64", help_heading = "Resources")]
    pub(crate) handshakes_per_address_max: usize,

    /// Connections of one address whose handshake is done; further ones are reset. An IPv6 address counts with its /64, and
    /// all that is behind one address translator with that
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000), default_value = "512", help_heading = "Resources")]
    pub(crate) connections_per_address_max: usize,

    /// Tell the NFS server the client's address in a PROXY protocol header. It must expect one
    #[arg(long, value_enum, value_name = "VERSION", help_heading = "Network")]
    pub(crate) proxy_protocol: Option<Proxy>,

    #[command(flatten)]
    pub(crate) tunnel: TunnelOptions,
}

impl ServerOptions {
    /// The files that are read, those in directories included.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let named = [&self.cert, &self.key].into_iter().chain(&self.client_ca).chain(self.crl.files()).cloned();
        named.chain(files_in(&self.client_ca_dir, self.crl.directories())).collect()
    }

    /// The directories of which all that counts is read.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.client_ca_dir.iter().chain(self.crl.directories()).cloned().collect()
    }
}

/// The files that count in directories.
fn files_in<'d>(cas: &'d [PathBuf], crls: &'d [PathBuf]) -> impl Iterator<Item = PathBuf> {
    let cas = cas.iter().flat_map(|directory| CaOptions::files_in(directory));
    cas.chain(crls.iter().flat_map(|directory| CrlOptions::files_in(directory)))
}

/// What both modes have.
#[derive(Args, Debug)]
pub(crate) struct TunnelOptions {
    /// Read certificates, keys, CAs and CRLs again when something changes in their directories, as after SIGHUP
    #[arg(long, help_heading = "Trust")]
    pub(crate) watch: bool,

    #[command(flatten)]
    pub(crate) policy: PolicyArguments,

    /// What becomes of a connection whose peer's certificate turns out to be revoked while it lasts: log says so; close takes no
    /// more calls, and ends it when those under way are answered
    #[arg(long, value_enum, value_name = "WHAT", default_value = "log", help_heading = "Revocation")]
    pub(crate) revoked_live: Live,

    /// How bytes are moved; auto takes io_uring where the host allows it and says so
    #[arg(long, value_enum, default_value = "auto", help_heading = "Resources")]
    pub(crate) io: Io,

    /// Threads [default: the cores of this process, at most 4]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=256), help_heading = "Resources")]
    pub(crate) workers: Option<usize>,

    /// Memory for buffers, of all threads together; K, M and G are powers of 1024
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "256M", help_heading = "Resources")]
    pub(crate) memory_max: usize,

    /// Connections at the same time; further ones are reset. Those of TLS clients count when their handshake is done
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000), default_value = "1024", help_heading = "Resources")]
    pub(crate) connections_max: usize,

    /// Keep looking for the next message for a moment before a thread sleeps: auto where that has turned out to cost less
    /// than sleeping, off, or always for so many microseconds
    #[arg(long, value_name = "auto|off|MICROSECONDS", value_parser = parse_spin, default_value = "auto", help_heading = "Resources")]
    pub(crate) spin: Spin,

    /// Connect to --connect from this address
    #[arg(long, value_name = "ADDRESS", value_parser = parse_source, help_heading = "Network")]
    pub(crate) bind_address: Option<IpAddr>,

    /// Connect from a port below 1024, as the export option 'secure' demands; needs CAP_NET_BIND_SERVICE
    #[arg(long, value_enum, default_value = "any", help_heading = "Network")]
    pub(crate) source_port: SourcePort,

    /// Time for one address of --connect to accept a connection, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "5", help_heading = "Network")]
    pub(crate) connect_timeout: Duration,

    /// Time for the TLS handshake, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "10", help_heading = "Network")]
    pub(crate) handshake_timeout: Duration,

    /// Time during which an unreachable --connect is tried again while the client waits, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "12", help_heading = "Network")]
    pub(crate) retry_timeout: Duration,

    /// Time for the peer's close_notify after ours, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "5", help_heading = "Network")]
    pub(crate) close_timeout: Duration,

    /// Time for calls under way to be answered when the tunnel is told to stop, in seconds; no new ones are taken. 0: none. A second
    /// signal ends it at once
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds_or_off, default_value = "5", help_heading = "Network")]
    pub(crate) drain: Duration,

    /// Time that a half-closed connection may be silent, in seconds; where it owes replies, as --silence-timeout says
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "60", help_heading = "Network")]
    pub(crate) half_close_timeout: Duration,

    /// Idle time before a peer is asked whether it is there (TCP keepalive), in seconds; 0: never. It may leave that unanswered
    /// for --ack-timeout, or --user-timeout if that is shorter
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds_or_off, default_value = "30", help_heading = "Network")]
    pub(crate) keepalive: Duration,

    /// Time that sent bytes or keepalive probes may stay unacknowledged on the network, or the peer's window closed
    /// (TCP_USER_TIMEOUT), in seconds; 0: the kernel's default. Not used on loopback, nor towards plain clients
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds_or_off, default_value = "180", help_heading = "Network")]
    pub(crate) user_timeout: Duration,

    /// Time that an NFS server which owes replies may say nothing, in seconds; 0: for ever. A COMMIT or a delegation recall
    /// may lawfully take minutes; an idle mount owes nothing
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds_or_off, default_value = "180", help_heading = "Network")]
    pub(crate) silence_timeout: Duration,

    /// Time in which a side must take a buffer of what is sent to it (at most 1 MiB), or say more of a record that it has
    /// begun, in seconds; 0: for ever
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds_or_off, default_value = "180", help_heading = "Network")]
    pub(crate) stall_timeout: Duration,

    /// Time that nothing may go over a connection either way, in seconds; 0: for ever. An idle mount is cut by it, unless its
    /// client renews its lease sooner
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds_or_off, default_value = "0", help_heading = "Network")]
    pub(crate) idle_timeout: Duration,

    /// Time that a peer's host may acknowledge nothing while it has something to acknowledge, be it a keepalive probe, in
    /// seconds; 0: as TCP has it
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds_or_off, default_value = "30", help_heading = "Network")]
    pub(crate) ack_timeout: Duration,

    /// SO_RCVBUF of the TLS connections; without it the kernel tunes it [default: the kernel's]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Network")]
    pub(crate) receive_buffer: Option<usize>,

    /// SO_SNDBUF of the TLS connections; without it the kernel tunes it [default: the kernel's]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Network")]
    pub(crate) send_buffer: Option<usize>,

    /// What the process gives up once it has its listener and its keys: auto what this host offers, on all of it or an
    /// error. Landlock leaves it the directories of its PEM files, what names need, and the port of --connect; seccomp the
    /// system calls that it makes; no core dumps, no capabilities that it does not need
    #[arg(long, value_enum, default_value = "auto", help_heading = "Privileges")]
    pub(crate) sandbox: Sandbox,

    /// Become this user, by name or number, with its groups, once listener and keys are there; needs root
    #[arg(long, value_name = "USER", help_heading = "Privileges")]
    pub(crate) user: Option<String>,

    /// The group of --user, by name or number, instead of its own
    #[arg(long, value_name = "GROUP", requires = "user", help_heading = "Privileges")]
    pub(crate) group: Option<String>,

    /// Try what the sandbox forbids, print what came of it, and end; for tests
    #[arg(long, hide = true)]
    pub(crate) sandbox_probe: bool,

    /// What to log on standard error; RUST_LOG overrides it
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"], default_value = "info")]
    pub(crate) log_level: String,

    /// Replace keys after this many records, if that is earlier than the protocol wants it; for tests
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(2..), default_value_t = u64::MAX, hide = true)]
    pub(crate) records_per_key_max: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Io {
    Auto,
    Uring,
    Epoll,
}

impl From<Io> for IoChoice {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Auto,
            Io::Uring => Self::Uring,
            Io::Epoll => Self::Epoll,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Sandbox {
    Auto,
    On,
    Off,
}

impl From<Sandbox> for Demand {
    fn from(sandbox: Sandbox) -> Self {
        match sandbox {
            Sandbox::Auto => Self::Auto,
            Sandbox::On => Self::On,
            Sandbox::Off => Self::Off,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Tls {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
    #[value(name = "1.2-1.3")]
    Both,
}

impl From<Tls> for TlsVersions {
    fn from(tls: Tls) -> Self {
        match tls {
            Tls::Tls12 => Self::Tls12,
            Tls::Tls13 => Self::Tls13,
            Tls::Both => Self::Both,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Proxy {
    V1,
    V2,
}

impl From<Proxy> for ProxyProtocol {
    fn from(version: Proxy) -> Self {
        match version {
            Proxy::V1 => Self::V1,
            Proxy::V2 => Self::V2,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Live {
    Log,
    Close,
}

impl Live {
    pub(crate) fn closes(self) -> bool {
        matches!(self, Self::Close)
    }
}

impl From<Live> for RevokedLive {
    fn from(live: Live) -> Self {
        match live {
            Live::Log => Self::Log,
            Live::Close => Self::Close,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SourcePort {
    Any,
    Privileged,
}

/// A number of bytes with an optional K, M or G (also KiB, MiB, GiB).
fn parse_size(text: &str) -> Result<usize, String> {
    let wrong =
        || format!("'{text}' is not a size: a whole number of bytes, or of KiB, MiB, GiB with K, M, G behind it");
    let digits_end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(wrong()),
    };
    let count: usize = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is more than this host can address"))
}

/// `auto`, `off`, or microseconds, at most ten milliseconds.
fn parse_spin(text: &str) -> Result<Spin, String> {
    match (text, text.parse::<u64>()) {
        ("auto", _) => Ok(Spin::Auto),
        ("off" | "0", _) => Ok(Spin::Off),
        (_, Ok(micros @ 1..=10_000)) => Ok(Spin::For(Duration::from_micros(micros))),
        _ => Err(format!("'{text}' is neither 'auto' nor 'off' nor a number of microseconds from 1 to 10000")),
    }
}

fn parse_name(text: &str) -> Result<ServerName<'static>, String> {
    let wrong = |_| format!("'{text}' is neither a DNS name nor an IP address");
    ServerName::try_from(text.to_string()).map_err(wrong)
}

/// By which name a server is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Sni {
    Off,
    Name(ServerName<'static>),
}

fn parse_sni(text: &str) -> Result<Sni, String> {
    match (text, parse_name(text)?) {
        ("off", _) => Ok(Sni::Off),
        (_, name @ ServerName::DnsName(_)) => Ok(Sni::Name(name)),
        _ => Err(format!("'{text}' is an address; only names can be asked for (RFC 6066 section 3)")),
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ClientCert {
    Required,
    Optional,
}

fn parse_allow(text: &str) -> Result<Allow, String> {
    text.parse().map_err(|error: sealane_relay::ConfigError| error.to_string())
}

fn parse_pin(text: &str) -> Result<Pin, String> {
    text.parse().map_err(|error: sealane_relay::ConfigError| error.to_string())
}

fn parse_source(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_multicast() => {
            Err(format!("'{text}' is a multicast address: nothing comes from there"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!("'{text}' is not an IP address")),
    }
}

/// The length of a window: at least a tenth of a second, at most a minute.
fn parse_window(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=60.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("'{text}' is not a number of seconds from 0.1 to 60")),
    }
}

/// Seconds, at least a millisecond and at most a day.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("'{text}' is not a number of seconds from 0.001 to 86400")),
    }
}

fn parse_seconds_or_off(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_seconds(text).map_err(|error| error + ", or 0") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("1"), Ok(1));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        for text in ["", "M", "1T", "1.5M", "-1", "99999999999G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_finite_and_not_negative() {
        assert_eq!(parse_seconds("0.2"), Ok(Duration::from_millis(200)));
        for text in ["0", "-1", "nan", "inf", "1e9", "5s"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
        assert_eq!(parse_seconds_or_off("0"), Ok(Duration::ZERO));
    }
}
