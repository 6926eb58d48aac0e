//! How each proxy is started: one AEAD, the server's certificate and name verified; as it comes, and tuned for large calls.

use super::{Job, Subject};
use crate::certificates::SERVER_NAME;
use crate::tls::Tls;

/// A command line, and the files that it names.
#[derive(Default)]
pub(crate) struct Started {
    pub(crate) args: Vec<String>,
    pub(crate) files: Vec<(&'static str, String)>,
}

const STUNNEL_FILE: &str = "stunnel.conf";
const NGINX_FILE: &str = "nginx.conf";
const HAPROXY_FILE: &str = "haproxy.conf";
const EFS_FILE: &str = "efs-proxy.conf";
const SUITE_12: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";

/// How `subject` is started for `job`; Sealane with so many workers, the others with as many threads as they have.
pub(crate) fn of(subject: Subject, job: &Job<'_>, workers: usize) -> Started {
    match subject {
        Subject::Direct | Subject::Relay => Started::default(),
        Subject::Uring | Subject::Epoll | Subject::UringSleeping | Subject::EpollSleeping => {
            sealane(subject, job, workers)
        }
        Subject::Stunnel | Subject::StunnelTuned => stunnel(job, subject == Subject::StunnelTuned),
        Subject::Nginx | Subject::NginxTuned => nginx(job, subject == Subject::NginxTuned),
        Subject::Haproxy | Subject::HaproxyTuned => haproxy(job, subject == Subject::HaproxyTuned),
        Subject::Socat | Subject::SocatTuned => socat(job, subject == Subject::SocatTuned),
        Subject::Ghostunnel => ghostunnel(job),
        Subject::EfsProxy => efs_proxy(job),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_string).collect()
}

fn in_file(job: &Job<'_>, option: &str, file: &'static str, text: String) -> Started {
    let path = job.directory.join(file).display().to_string();
    let args = if option.is_empty() { vec![path] } else { vec![option.to_string(), path] };
    Started { args, files: vec![(file, text)] }
}

fn sealane(subject: Subject, job: &Job<'_>, workers: usize) -> Started {
    let Job { listen, connect, ca, tls, sealane_options, .. } = job;
    let (io, spin) = match subject {
        Subject::UringSleeping => ("uring", "--spin off"),
        Subject::EpollSleeping => ("epoll", "--spin off"),
        Subject::Epoll => ("epoll", ""),
        _ => ("uring", ""),
    };
    let tls = tls.name();
    let args = format!(
        "client --listen {listen} --connect {connect} --server-name {SERVER_NAME} --ca-file {ca} --tls {tls} --workers {workers} \
         --io {io} --connections-max 2048 {spin} {sealane_options}"
    );
    Started { args: words(&args), files: Vec::new() }
}

/// stunnel has no size of its buffers to be set: they are 16 KiB.
fn stunnel(job: &Job<'_>, is_tuned: bool) -> Started {
    let Job { listen, connect, ca, tls, .. } = job;
    let policy = match tls {
        Tls::Tls12 => format!("sslVersion = TLSv1.2\nciphers = {SUITE_12}\n"),
        Tls::Tls13 => "sslVersion = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\n".to_string(),
    };
    let tuned = match is_tuned {
        true => {
            "socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\nsocket = l:SO_SNDBUF=4194304\nsocket = r:SO_SNDBUF=4194304\n"
        }
        false => "",
    };
    let text = format!(
        "foreground = yes\npid =\ndebug = warning\n{tuned}[nfs]\nclient = yes\naccept = {listen}\nconnect = {connect}\n\
         CAfile = {ca}\nverifyChain = yes\ncheckHost = {SERVER_NAME}\n{policy}"
    );
    in_file(job, "", STUNNEL_FILE, text)
}

fn nginx(job: &Job<'_>, is_tuned: bool) -> Started {
    let Job { listen, connect, ca, tls, directory, .. } = job;
    let buffer = if is_tuned { "256k" } else { "16k" };
    let protocol = match tls {
        Tls::Tls12 => "TLSv1.2",
        Tls::Tls13 => "TLSv1.3",
    };
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off; master_process off; worker_processes 1; pid {pid}; error_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         stream {{ server {{\n  listen {listen}; proxy_pass {connect}; proxy_buffer_size {buffer};\n\
         \x20 proxy_ssl on; proxy_ssl_protocols {protocol}; proxy_ssl_ciphers {SUITE_12};\n\
         \x20 proxy_ssl_verify on; proxy_ssl_name {SERVER_NAME}; proxy_ssl_trusted_certificate {ca};\n}} }}\n",
        pid = directory.join("nginx.pid").display(),
    );
    in_file(job, "-c", NGINX_FILE, text)
}

fn haproxy(job: &Job<'_>, is_tuned: bool) -> Started {
    let Job { listen, connect, ca, tls, .. } = job;
    let version = tls.name();
    let tuned = if is_tuned { "  tune.bufsize 65536\n" } else { "" };
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4096\n{tuned}\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n\
         listen nfs\n  bind {listen}\n\
         \x20 server far {connect} ssl verify required ca-file {ca} verifyhost {SERVER_NAME} sni str({SERVER_NAME}) \
         ssl-min-ver TLSv{version} ssl-max-ver TLSv{version} ciphers {SUITE_12} ciphersuites TLS_AES_128_GCM_SHA256\n"
    );
    in_file(job, "-f", HAPROXY_FILE, text)
}

fn socat(job: &Job<'_>, is_tuned: bool) -> Started {
    let Job { listen, connect, ca, tls, .. } = job;
    let port = listen.rsplit(':').next().unwrap_or_default();
    let (version, suite) = match tls {
        Tls::Tls12 => ("TLS1.2", format!(",cipher={SUITE_12}")),
        Tls::Tls13 => ("TLS1.3", String::new()),
    };
    let buffer = if is_tuned { "-b 1048576 " } else { "" };
    let args = format!(
        "{buffer}TCP4-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay \
         OPENSSL:{connect},cafile={ca},verify=1,commonname={SERVER_NAME},\
         openssl-min-proto-version={version},openssl-max-proto-version={version}{suite},nodelay"
    );
    Started { args: words(&args), files: Vec::new() }
}

fn ghostunnel(job: &Job<'_>) -> Started {
    let Job { listen, connect, ca, .. } = job;
    let args = format!(
        "client --listen {listen} --target {connect} --cacert {ca} --override-server-name {SERVER_NAME} --disable-authentication"
    );
    Started { args: words(&args), files: Vec::new() }
}

/// One connection for each process; the configuration is stunnel's in part.
fn efs_proxy(job: &Job<'_>) -> Started {
    let Job { listen, connect, ca, directory, .. } = job;
    let pid = directory.join("efs-proxy.pid");
    let text = format!(
        "fips = no\nforeground = quiet\ndebug = warning\npid = {}\n[efs]\nclient = yes\naccept = {listen}\nconnect = {connect}\n\
         sslVersion = TLSv1.2\nrenegotiation = no\nTIMEOUTbusy = 20\nTIMEOUTclose = 0\nTIMEOUTidle = 70\ndelay = yes\n\
         verify = 2\nCAfile = {ca}\ncheckHost = {SERVER_NAME}\n",
        pid.display()
    );
    let Started { mut args, files } = in_file(job, "", EFS_FILE, text);
    args.push("--tls".into());
    Started { args, files }
}
