//! The proxies under test, each set up for the same job: TLS 1.2, one AEAD, the server's certificate verified.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::certificates::{Certificates, RunDirectory, SERVER_NAME};
use crate::process::Process;

/// Where the subject listens; the network namespace is ours, so every port is free.
pub(crate) const SUBJECT_PORT: u16 = 20_049;
/// Where the far end listens.
pub(crate) const SERVER_PORT: u16 = 2049;
/// The processor of the subject, which has it for itself.
const SUBJECT_CPU: usize = 0;
/// The processor of the load and of the far end.
const OUTER_CPU: usize = 1;

/// A proxy.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Subject {
    Uring,
    Epoll,
    Stunnel,
}

impl Subject {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
            Self::Stunnel => "stunnel",
        }
    }

    pub(crate) const fn is_sealane(self) -> bool {
        !matches!(self, Self::Stunnel)
    }
}

/// What all measurements of a run share.
pub(crate) struct Setup {
    pub(crate) directory: RunDirectory,
    pub(crate) certificates: Certificates,
    pub(crate) sealane: PathBuf,
    pub(crate) stunnel: PathBuf,
}

impl Setup {
    /// Starts `subject`, which is then listening.
    ///
    /// # Errors
    /// When it does not get that far.
    pub(crate) fn start_subject(&self, subject: Subject) -> Result<Process> {
        let log = self.directory.file(&format!("{}.log", subject.name()));
        let listen = format!("127.0.0.1:{SUBJECT_PORT}");
        let connect = format!("127.0.0.1:{SERVER_PORT}");
        let ca = self.certificates.ca.display().to_string();
        let mut process = if subject.is_sealane() {
            let args = ["client", "--listen", &listen, "--connect", &connect, "--server-name", SERVER_NAME];
            let more = ["--ca-file", &ca, "--tls", "1.2", "--workers", "1", "--io", subject.name()];
            Process::start(subject.name(), SUBJECT_CPU, &self.sealane, &[&args[..], &more].concat(), log)?
        } else {
            let file = self.directory.file("stunnel.conf");
            fs::write(&file, stunnel_config(&listen, &connect, &ca)).context("stunnel.conf")?;
            Process::start(subject.name(), SUBJECT_CPU, &self.stunnel, &[&file.display().to_string()], log)?
        };
        process.wait_for_port(SUBJECT_PORT)?;
        Ok(process)
    }

    /// Starts the far end, which is then listening.
    ///
    /// # Errors
    /// When it does not get that far.
    pub(crate) fn start_server(&self) -> Result<Process> {
        let Certificates { server, server_key, .. } = &self.certificates;
        let (cert, key) = (server.display().to_string(), server_key.display().to_string());
        let listen = format!("127.0.0.1:{SERVER_PORT}");
        let args = ["server", "--listen", &listen, "--cert", &cert, "--key", &key];
        let more = ["--tls", "1.2", "--suite", "aes128", "--lifetime", "600"];
        let mut process = self.start_own("server", &[&args[..], &more].concat())?;
        process.wait_for_port(SERVER_PORT)?;
        Ok(process)
    }

    /// Starts another part of this program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start_own(&self, name: &'static str, args: &[&str]) -> Result<Process> {
        let program = std::env::current_exe().context("the path of this program")?;
        Process::start(name, OUTER_CPU, &program, args, self.directory.file(&format!("{name}.log")))
    }

    /// What is compared, for the head of the output.
    pub(crate) fn versions(&self) -> Vec<String> {
        [(&self.sealane, "--version"), (&self.stunnel, "-version")]
            .into_iter()
            .map(|(program, flag)| version(program, flag))
            .collect()
    }
}

fn version(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return "unknown".into() };
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&both);
    let wanted = text.lines().filter(|line| ["sealane", "stunnel", "Running"].iter().any(|it| line.starts_with(it)));
    wanted.map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

fn stunnel_config(listen: &str, connect: &str, ca: &str) -> String {
    format!(
        "foreground = yes\npid =\ndebug = warning\n[nfs]\nclient = yes\naccept = {listen}\nconnect = {connect}\n\
         CAfile = {ca}\nverifyChain = yes\ncheckHost = {SERVER_NAME}\nsslVersion = TLSv1.2\n\
         ciphers = ECDHE-ECDSA-AES128-GCM-SHA256\n"
    )
}
