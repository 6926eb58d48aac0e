//! What is compared: proxies, each set up for the same job, and what they are to be held against: no proxy, a plain one.

mod settings;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::certificates::{Certificates, RunDirectory};
use crate::process::Process;
use crate::tls::Tls;
use crate::work::Work;

/// Where the subject listens; the network namespace is ours, so every port is free.
pub(crate) const SUBJECT_PORT: u16 = 20_049;
/// Where the far end listens.
pub(crate) const SERVER_PORT: u16 = 2049;
/// The processor of the subject, which has it for itself.
pub(crate) const SUBJECT_CPU: usize = 0;
/// The processor of the load and of the far end.
pub(crate) const OUTER_CPU: usize = 1;

/// What stands between the load and the far end.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Subject {
    /// Nothing, and no TLS
    Direct,
    /// A relay that copies, without TLS
    Relay,
    /// Sealane over io_uring
    Uring,
    /// Sealane over epoll
    Epoll,
    /// Sealane over io_uring, which never spins
    UringSleeping,
    /// Sealane over epoll, which never spins
    EpollSleeping,
    Stunnel,
    StunnelTuned,
    Nginx,
    NginxTuned,
    Haproxy,
    HaproxyTuned,
    Socat,
    SocatTuned,
    /// Given by --ghostunnel
    Ghostunnel,
    /// Given by --efs-proxy
    EfsProxy,
}

impl Subject {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }

    pub(crate) const fn is_sealane(self) -> bool {
        matches!(self, Self::Uring | Self::Epoll | Self::UringSleeping | Self::EpollSleeping)
    }

    /// The same without spinning; others are that themselves.
    pub(crate) const fn sleeping(self) -> Self {
        match self {
            Self::Uring => Self::UringSleeping,
            Self::Epoll => Self::EpollSleeping,
            other => other,
        }
    }

    /// Whether the far end is to speak plain text.
    pub(crate) const fn is_plain(self) -> bool {
        matches!(self, Self::Direct | Self::Relay)
    }

    /// Whether it can do this work at all.
    pub(crate) fn can(self, tls: Tls, work: Work) -> bool {
        // It serves one connection, and TLS 1.2 is what it is told to use.
        self != Self::EfsProxy || (tls == Tls::Tls12 && work.connections() == 1)
    }

    /// Somebody else's TLS proxy.
    pub(crate) const fn is_rival(self) -> bool {
        !self.is_sealane() && !self.is_plain()
    }
}

/// Where the programs are, as told.
#[derive(Args, Debug)]
pub(crate) struct ProgramOptions {
    /// The sealane binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    sealane: Option<PathBuf>,

    /// Options for sealane besides those of the comparison, for trying something out
    #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true)]
    sealane_options: String,

    /// The stunnel binary
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/stunnel")]
    stunnel: PathBuf,

    /// The nginx binary
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,

    /// The haproxy binary
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/haproxy")]
    haproxy: PathBuf,

    /// The socat binary
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/socat")]
    socat: PathBuf,

    /// A ghostunnel binary
    #[arg(long, value_name = "FILE")]
    ghostunnel: Option<PathBuf>,

    /// A binary of efs-proxy
    #[arg(long, value_name = "FILE")]
    efs_proxy: Option<PathBuf>,
}

impl ProgramOptions {
    /// With Sealane beside this program, if nothing else was said.
    ///
    /// # Errors
    /// This program's path is not known.
    pub(crate) fn find(&self) -> Result<Programs> {
        let sealane = match &self.sealane {
            Some(file) => file.clone(),
            None => std::env::current_exe().context("the path of this program")?.with_file_name("sealane"),
        };
        Ok(Programs {
            sealane,
            stunnel: self.stunnel.clone(),
            nginx: self.nginx.clone(),
            haproxy: self.haproxy.clone(),
            socat: self.socat.clone(),
            ghostunnel: self.ghostunnel.clone(),
            efs_proxy: self.efs_proxy.clone(),
            sealane_options: self.sealane_options.clone(),
        })
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) sealane: PathBuf,
    pub(crate) stunnel: PathBuf,
    pub(crate) nginx: PathBuf,
    pub(crate) haproxy: PathBuf,
    pub(crate) socat: PathBuf,
    pub(crate) ghostunnel: Option<PathBuf>,
    pub(crate) efs_proxy: Option<PathBuf>,
    /// What Sealane is told besides.
    pub(crate) sealane_options: String,
}

impl Programs {
    fn of(&self, subject: Subject) -> Option<&Path> {
        match subject {
            Subject::Direct | Subject::Relay => None,
            Subject::Uring | Subject::Epoll | Subject::UringSleeping | Subject::EpollSleeping => Some(&self.sealane),
            Subject::Stunnel | Subject::StunnelTuned => Some(&self.stunnel),
            Subject::Nginx | Subject::NginxTuned => Some(&self.nginx),
            Subject::Haproxy | Subject::HaproxyTuned => Some(&self.haproxy),
            Subject::Socat | Subject::SocatTuned => Some(&self.socat),
            Subject::Ghostunnel => self.ghostunnel.as_deref(),
            Subject::EfsProxy => self.efs_proxy.as_deref(),
        }
    }

    /// Why `subject` cannot be measured here, if it cannot.
    pub(crate) fn obstacle(&self, subject: Subject) -> Option<String> {
        match (subject, self.of(subject)) {
            (Subject::Direct | Subject::Relay, _) => None,
            (_, Some(path)) if path.is_file() => None,
            (_, Some(path)) => Some(format!("there is no {}", path.display())),
            (_, None) => Some(format!("--{} does not say where it is", subject.name())),
        }
    }
}

/// What all measurements of a run share.
pub(crate) struct Setup {
    pub(crate) directory: RunDirectory,
    pub(crate) certificates: Certificates,
    pub(crate) programs: Programs,
}

/// What a subject is told.
pub(crate) struct Job<'s> {
    listen: String,
    connect: String,
    ca: String,
    tls: Tls,
    directory: &'s Path,
    sealane_options: &'s str,
}

impl Setup {
    /// Starts `subject`, which is then listening; none where there is nothing to start.
    ///
    /// # Errors
    /// When it does not get that far.
    pub(crate) fn start_subject(&self, subject: Subject, tls: Tls, workers: usize) -> Result<Option<Process>> {
        let name = subject.name();
        let log = self.directory.file(&format!("{name}.log"));
        let job = Job {
            listen: format!("127.0.0.1:{SUBJECT_PORT}"),
            connect: format!("127.0.0.1:{SERVER_PORT}"),
            ca: self.certificates.ca.display().to_string(),
            tls,
            directory: self.directory.path(),
            sealane_options: &self.programs.sealane_options,
        };
        let mut process = match subject {
            Subject::Direct => return Ok(None),
            Subject::Relay => {
                let own = std::env::current_exe().context("the path of this program")?;
                let args = ["relay", "--listen", &job.listen, "--connect", &job.connect];
                Process::start(&name, SUBJECT_CPU, &own, &args, log)?
            }
            _ => {
                let settings::Started { args, files } = settings::of(subject, &job, workers);
                for (file, text) in files {
                    let path = self.directory.file(file);
                    fs::write(&path, text).with_context(|| path.display().to_string())?;
                }
                let Some(program) = self.programs.of(subject) else { bail!("{name}: no program") };
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                Process::start(&name, SUBJECT_CPU, program, &args, log)?
            }
        };
        process.wait_for_port(SUBJECT_PORT)?;
        Ok(Some(process))
    }

    /// Starts the far end, which is then listening; in plain text for what has no TLS.
    ///
    /// # Errors
    /// When it does not get that far.
    pub(crate) fn start_server(&self, subject: Subject, tls: Tls, delay_us: u32) -> Result<Process> {
        let Certificates { server, server_key, .. } = &self.certificates;
        let (cert, key) = (server.display().to_string(), server_key.display().to_string());
        // Where there is no subject, the far end is where the load looks for it.
        let port = if subject == Subject::Direct { SUBJECT_PORT } else { SERVER_PORT };
        let listen = format!("127.0.0.1:{port}");
        let delay = delay_us.to_string();
        let mut args = vec!["server", "--listen", &listen, "--lifetime", "600", "--delay", &delay];
        if subject.is_plain() {
            args.push("--plain");
        } else {
            args.extend(["--cert", &cert, "--key", &key, "--tls", tls.name(), "--suite", "aes128"]);
        }
        let mut process = self.start_own("server", OUTER_CPU, &args)?;
        process.wait_for_port(port)?;
        Ok(process)
    }

    /// Starts another part of this program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start_own(&self, name: &str, cpu: usize, args: &[&str]) -> Result<Process> {
        let program = std::env::current_exe().context("the path of this program")?;
        Process::start(name, cpu, &program, args, self.directory.file(&format!("{name}.log")))
    }

    /// Starts the load.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start_load(&self, args: &[&str]) -> Result<Process> {
        self.start_own("load", OUTER_CPU, args)
    }

    /// The version of what `subject` is, and of its OpenSSL if it says so.
    pub(crate) fn version(&self, subject: Subject) -> Option<String> {
        let program = self.programs.of(subject)?;
        let flag = match subject {
            Subject::Stunnel | Subject::StunnelTuned => "-version",
            Subject::Nginx | Subject::NginxTuned | Subject::Haproxy | Subject::HaproxyTuned => "-v",
            Subject::Socat | Subject::SocatTuned => "-V",
            _ => "--version",
        };
        let output = Command::new(program).arg(flag).output().ok()?;
        let both = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&both);
        let is_said = |line: &&str| {
            line.to_ascii_lowercase().contains("version")
                || ["sealane ", "stunnel "].iter().any(|it| line.starts_with(it))
        };
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let said = text.lines().find(is_said).map(words)?;
        let cipher = text.lines().skip(1).find(|line| line.contains("OpenSSL") && *line != said).map(words);
        let both = [Some(said), cipher].into_iter().flatten().collect::<Vec<_>>().join("; ");
        Some(both.chars().take(200).collect())
    }

    /// The command line and files that `subject` is started with, without this run's directory.
    pub(crate) fn settings(&self, subject: Subject, tls: Tls, workers: usize) -> String {
        let job = Job {
            listen: format!("127.0.0.1:{SUBJECT_PORT}"),
            connect: format!("127.0.0.1:{SERVER_PORT}"),
            ca: "ca.pem".into(),
            tls,
            directory: Path::new("."),
            sealane_options: &self.programs.sealane_options,
        };
        let settings::Started { args, files } = settings::of(subject, &job, workers);
        let program =
            self.programs.of(subject).and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let mut text = format!("$ {} {}\n", program.unwrap_or_default(), args.join(" "));
        for (file, content) in files {
            text += &format!("# {file}\n{content}");
        }
        text
    }
}

impl Tls {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}
