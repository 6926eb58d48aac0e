//! The units for systemd, as far as they can be tried without one that runs: what `systemd-analyze` says of them, and a socket that
//! `systemd-socket-activate` listens on. Whether a service starts under a real systemd is not tried here.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::far_ends::echo_server;
use crate::support::not_run;
use crate::support::process::{Process, SOON, free_port, have, scratch, wait_for_port};
use crate::support::sealane::binary;

/// The exposure that `systemd-analyze security` gives the service, times ten. Less is better.
const EXPOSURE_MAX: u32 = 26;

/// The units as they are for one file, with the program that is tested.
fn units() -> PathBuf {
    let directory = scratch("units");
    for kind in ["service", "socket"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../packaging/systemd/sealane@.{kind}"));
        let text = fs::read_to_string(source).unwrap().replace("/usr/bin/sealane", binary().to_str().unwrap());
        fs::write(directory.join(format!("sealane@home.{kind}")), text).unwrap();
    }
    directory
}

fn analyze(words: &[&str], unit: &Path) -> (bool, String) {
    let out = Command::new("systemd-analyze").args(words).arg(unit).stdin(Stdio::null()).output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_units_are_well_and_the_service_can_do_little() {
    if !have("systemd-analyze") {
        return not_run("units::the_units_are_well", "systemd-analyze is not there");
    }
    let directory = units();
    for kind in ["service", "socket"] {
        let (is_well, said) = analyze(&["verify"], &directory.join(format!("sealane@home.{kind}")));
        assert!(is_well && said.is_empty(), "{kind}: {said}");
    }
    let service = directory.join("sealane@home.service");
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let (is_within, said) = analyze(&["security", "--offline=true", &threshold], &service);
    assert!(is_within, "{said}");
    // Each line counts: without one the exposure is above that.
    let text = fs::read_to_string(&service).unwrap();
    fs::write(&service, text.replace("NoNewPrivileges=yes\n", "").replace("ProtectSystem=strict\n", "")).unwrap();
    let (is_within, said) = analyze(&["security", "--offline=true", &threshold], &service);
    assert!(!is_within, "{said}");
    // An unknown key is seen.
    fs::write(&service, text.replace("WatchdogSec=", "WatchdogSecond=")).unwrap();
    let (_, said) = analyze(&["verify"], &service);
    assert!(said.contains("WatchdogSecond"), "{said}");
}

#[test]
fn a_socket_of_systemds_is_served() {
    if !have("systemd-socket-activate") {
        return not_run("units::a_socket_of_systemds_is_served", "systemd-socket-activate is not there");
    }
    let (port, echo) = (free_port(), echo_server());
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &address]).arg(binary()).args(["client", "--listen", &address, "--no-tls"]);
    command.args(["--connect", &format!("127.0.0.1:{echo}")]).stdin(Stdio::null());
    let mut process = Process::start(&mut command);
    wait_for_port(port);
    // It starts when somebody connects.
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"there and back").unwrap();
    let mut back = [0; 14];
    stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{error}: {}", process.output()));
    assert_eq!(&back, b"there and back");
    process.wait_for(&format!("listening on {address}, PLAIN TEXT to "));
    process.signal("TERM");
    assert!(process.wait().success());
}
