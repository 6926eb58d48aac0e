//! Files of the shapes that are found in the wild: each is served, by this program under its name as by stunnel.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::drop_in::{Background, called};
use crate::far_ends::echo_server;
use crate::support::authority::Authority;
use crate::support::pki::Identity;
use crate::support::process::{Process, SOON, eventually, free_port, have, scratch};
use crate::support::sealane::{Sealane, command};
use crate::support::{is_root, not_run};

/// Who a file is for.
#[derive(Clone, Copy, Eq, PartialEq)]
enum For {
    Client,
    Server,
}

/// What is filled in.
struct World {
    ca: Authority,
    own: Identity,
    client: Identity,
    echo: u16,
}

impl World {
    fn new() -> Self {
        let ca = Authority::new();
        let own = ca.issue("own", "ca", "subjectAltName=DNS:*.file.core.windows.net\nextendedKeyUsage=serverAuth");
        let client = ca.issue("client", "ca", "subjectAltName=DNS:client.test\nextendedKeyUsage=clientAuth");
        Self { ca, own, client, echo: echo_server() }
    }

    /// A file of the shape, its address, and the directory of its pid file.
    fn fill(&self, shape: &str, accept: u16, connect: u16) -> (String, PathBuf) {
        let directory = scratch("dropin");
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dropin").join(shape)).unwrap();
        let within = |name: &str| directory.join(name);
        let both = within("both.pem");
        fs::write(&both, [fs::read(&self.own.cert).unwrap(), fs::read(self.ca.ca()).unwrap()].concat()).unwrap();
        let (cas, crls) = (within("cas"), within("crls"));
        fs::create_dir_all(&cas).unwrap();
        fs::create_dir_all(&crls).unwrap();
        fs::copy(self.ca.ca(), cas.join("ca.pem")).unwrap();
        fs::copy(self.ca.crl("ca", "none", &["-crldays", "20"]), crls.join("ca.crl.pem")).unwrap();
        for rehashed in [&cas, &crls] {
            assert!(Command::new("openssl").arg("rehash").arg(rehashed).status().unwrap().success());
        }
        // Where another user may make a file, too.
        let open = std::env::temp_dir().join(format!("sealane-dropin-{}-{accept}", std::process::id()));
        fs::create_dir_all(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let mut filled = text.clone();
        for (name, path) in [
            ("dir", &directory),
            ("open", &open),
            ("ca", &self.ca.ca().into()),
            ("both", &both),
            ("cas", &cas),
            ("crls", &crls),
            ("own", &self.own.cert),
            ("ownkey", &self.own.key),
            ("cert", &self.client.cert),
            ("key", &self.client.key),
        ] {
            filled = filled.replace(&format!("{{{name}}}"), path.to_str().unwrap());
        }
        let filled = filled.replace("{accept}", &accept.to_string()).replace("{connect}", &connect.to_string());
        assert!(!filled.contains('{'), "{filled}");
        let pid_directory = if text.contains("{open}") { open } else { directory.clone() };
        fs::write(directory.join("conf"), filled).unwrap();
        (directory.join("conf").display().to_string(), pid_directory)
    }

    /// Whether bytes come back through a program that serves the file, and what it has said.
    fn is_carried(&self, program: &Path, words: &[&str], shape: &str, whose: For) -> (bool, String) {
        let accept = free_port();
        let is_plain = program.ends_with("efs-proxy") && !words.contains(&"--tls");
        // The other end is always ours.
        let own = [&self.own.cert, &self.own.key].map(|file| file.to_str().unwrap());
        let server = (whose == For::Client && !is_plain)
            .then(|| Sealane::server("epoll", self.echo, &["--cert", own[0], "--key", own[1]]));
        let connect = server.as_ref().map_or(self.echo, |server| server.port);
        let (conf, pid_directory) = self.fill(shape, accept, connect);
        let is_daemon = !fs::read_to_string(&conf).unwrap().contains("foreground");
        let mut starting = Command::new(program);
        starting.arg(&conf).args(words).stdin(Stdio::null()).env_remove("RUST_LOG");
        let mut process = Process::start(&mut starting);
        let mut background = None;
        if is_daemon {
            assert!(process.wait().success() && process.output().is_empty(), "{shape}: {}", process.output());
        }
        let pid_file = pid_directory.join("stunnel.pid");
        let pid = || fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
        eventually(&format!("{shape}: {} has a pid file: {}", program.display(), process.output()), || pid().is_some());
        if is_daemon {
            background = pid().map(Background);
        }
        let address = if shape.starts_with("alibaba") { "127.0.1.17" } else { "127.0.0.1" };
        let client = (whose == For::Server).then(|| {
            let [cert, key] = [&self.client.cert, &self.client.key].map(|file| file.to_str().unwrap());
            let ca = self.ca.ca();
            let args = ["--ca-file", &ca, "--server-name", "a.file.core.windows.net", "--cert", cert, "--key", key];
            Sealane::from_command(&mut command("epoll", accept, &args))
        });
        let mut stream = match &client {
            Some(client) => client.connect(),
            None => TcpStream::connect((address, accept)).unwrap(),
        };
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut back = [0; 14];
        let is_carried = stream.write_all(b"there and back").is_ok() && stream.read_exact(&mut back).is_ok();
        assert!(!is_carried || &back == b"there and back");
        drop(background);
        (is_carried, process.output())
    }
}

const SHAPES: [(&str, &str, For); 8] = [
    ("efs-utils-1.conf", "stunnel", For::Client),
    ("azure-aznfs.conf", "stunnel4", For::Client),
    ("ibm-vpc.conf", "stunnel", For::Client),
    ("alibaba-nas.conf", "stunnel5", For::Client),
    ("simp-client.conf", "stunnel", For::Client),
    ("server-image.conf", "stunnel", For::Server),
    ("how-to-shared-certificate.conf", "stunnel", For::Client),
    ("freebsd-server.conf", "stunnel", For::Server),
];

#[test]
fn files_of_the_shapes_in_the_wild_are_served() {
    if !is_root() {
        return not_run("drop_in_files::files_of_the_shapes_in_the_wild_are_served", "it takes root");
    }
    let world = World::new();
    for (shape, name, whose) in SHAPES {
        let (is_carried, said) = world.is_carried(&called(name), &[], shape, whose);
        assert!(is_carried, "{shape}: {said}");
        if have("stunnel4") {
            let (is_carried, said) = world.is_carried(Path::new("stunnel4"), &[], shape, whose);
            assert!(is_carried, "{shape} with stunnel: {said}");
        }
    }
    if !have("stunnel4") {
        not_run("drop_in_files::files_of_the_shapes_in_the_wild_are_served", "stunnel4 is not there");
    }
    for words in [&["--tls", "--no-direct-s3-read"][..], &["--no-direct-s3-read"]] {
        let (is_carried, said) = world.is_carried(&called("efs-proxy"), words, "efs-utils-2.conf", For::Client);
        assert!(is_carried, "{words:?}: {said}");
    }
}

#[test]
fn a_file_is_for_the_server_that_it_names_only() {
    let mut world = World::new();
    let other = Authority::named("other");
    // Of the same name, by another CA; by the same one, of another name.
    let wrong = [
        other.issue("own", "ca", "subjectAltName=DNS:*.file.core.windows.net\nextendedKeyUsage=serverAuth"),
        world.ca.issue("elsewhere", "ca", "subjectAltName=DNS:a.file.core.windows.net\nextendedKeyUsage=serverAuth"),
    ];
    for own in wrong {
        world.own = own;
        for (shape, name) in [("azure-aznfs.conf", "stunnel"), ("efs-utils-1.conf", "stunnel")] {
            let (is_carried, said) = world.is_carried(&called(name), &[], shape, For::Client);
            assert!(!is_carried, "{shape}: {said}");
            if have("stunnel4") {
                let (is_carried, said) = world.is_carried(Path::new("stunnel4"), &[], shape, For::Client);
                assert!(!is_carried, "{shape} with stunnel: {said}");
            }
        }
        let (is_carried, said) = world.is_carried(&called("efs-proxy"), &["--tls"], "efs-utils-2.conf", For::Client);
        assert!(!is_carried, "efs-proxy: {said}");
    }
}
