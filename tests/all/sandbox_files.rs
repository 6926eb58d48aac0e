//! The files that a tunnel in its sandbox reads: its PEM files again, and what name services want.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use crate::support::bytes::{call, reply};
use crate::support::dns;
use crate::support::peer::PeerListener;
use crate::support::pki::Pki;
use crate::support::process::{Process, eventually, have, scratch};
use crate::support::sealane::{DRIVERS, Sealane, binary, command, server_command};
use crate::support::{is_root, not_run};

/// A certificate and a key in a directory that everybody may look into.
fn pair_in(name: &str, key_mode: u32) -> (PathBuf, [PathBuf; 2]) {
    let dir = std::env::temp_dir().join(format!("sealane-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let identity = &Pki::get().server;
    let pair = [dir.join("server.pem"), dir.join("server.key")];
    std::fs::copy(&identity.cert, &pair[0]).unwrap();
    std::fs::copy(&identity.key, &pair[1]).unwrap();
    for (file, mode) in pair.iter().zip([0o644, key_mode]) {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    (dir, pair)
}

#[test]
fn a_key_that_the_user_will_not_be_able_to_read_is_named_at_start() {
    const TEST: &str = "sandbox_files::a_key_that_the_user_will_not_be_able_to_read_is_named_at_start";
    if !is_root() {
        return not_run(TEST, "needs root");
    }
    for (mode, lines) in [(0o400, 1), (0o444, 0)] {
        let (dir, [cert, key]) = pair_in("unreadable", mode);
        let [cert_arg, key_arg] = [&cert, &key].map(|file| file.to_str().unwrap());
        let options = ["--cert", cert_arg, "--key", key_arg, "--user", "nobody"];
        let sealane = Sealane::server("auto", 9, &options);
        let line = format!("cannot be read again by this process, only by a new start: {key_arg} (Permission denied");
        assert_eq!(sealane.process.count(&line), lines, "{mode:o}: {}", sealane.process.output());
        std::fs::remove_dir_all(dir).unwrap();
    }
    // As root, a key that is somebody else's and only theirs to read can be read again, too.
    let (dir, [cert, key]) = pair_in("others", 0o400);
    std::os::unix::fs::chown(&key, Some(65534), Some(65534)).unwrap();
    let options = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let sealane = Sealane::server("auto", 9, &options);
    sealane.wait_for(", CAP_DAC_READ_SEARCH");
    assert_eq!(sealane.process.count("cannot be read again"), 0);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_key_that_came_through_a_pipe_is_not_waited_for_again() {
    const TEST: &str = "sandbox_files::a_key_that_came_through_a_pipe_is_not_waited_for_again";
    if !have("mkfifo") {
        return not_run(TEST, "mkfifo is not installed");
    }
    let (pipe, identity) = (scratch("pipe").join("key"), &Pki::get().server);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = {
        let (pipe, key) = (pipe.clone(), std::fs::read(&identity.key).unwrap());
        std::thread::spawn(move || std::fs::write(pipe, key))
    };
    let (cert, key) = (identity.cert.to_str().unwrap(), pipe.to_str().unwrap());
    Sealane::server("auto", 9, &["--cert", cert, "--key", key]);
    writer.join().unwrap().unwrap();
}

#[test]
fn files_that_were_renewed_by_rename_can_be_read_again() {
    let (dir, [cert, key]) = pair_in("renewed", 0o444);
    // As certbot has it: links to files in a directory beside theirs, replaced by links to other files there.
    let [live, archive, keys] = ["live", "archive", "keys"].map(|name| dir.join(name));
    for directory in [&live, &archive, &keys] {
        std::fs::create_dir(directory).unwrap();
    }
    let (link, kept_key) = (live.join("server.pem"), keys.join("server.key"));
    std::fs::rename(&cert, archive.join("server1.pem")).unwrap();
    std::fs::rename(&key, &kept_key).unwrap();
    std::os::unix::fs::symlink("../archive/server1.pem", &link).unwrap();
    let args = ["--cert", link.to_str().unwrap(), "--key", kept_key.to_str().unwrap(), "--sandbox-probe"];
    let mut command = server_command("auto", 9, &[&args[..], &["--sandbox", "on"]].concat());
    let mut process = Process::start(command.stdin(Stdio::piped()));
    process.wait_for("the end: done");
    std::fs::copy(archive.join("server1.pem"), archive.join("server2.pem")).unwrap();
    std::fs::copy(&kept_key, keys.join("new.key")).unwrap();
    std::fs::rename(keys.join("new.key"), &kept_key).unwrap();
    std::os::unix::fs::symlink("../archive/server2.pem", live.join("new.pem")).unwrap();
    std::fs::rename(live.join("new.pem"), &link).unwrap();
    let mut input = process.child.stdin.take().unwrap();
    input.write_all(b"\n").unwrap();
    for file in [&link, &kept_key] {
        process.wait_for(&format!("again: read {}: ", file.display()));
        assert_eq!(process.count(&format!("again: read {}: done", file.display())), 1, "{}", process.output());
    }
    // Elsewhere is elsewhere: below the directory of these three nothing else is readable.
    std::fs::remove_file(&link).unwrap();
    std::fs::create_dir(dir.join("other")).unwrap();
    std::fs::copy(archive.join("server2.pem"), dir.join("other/server.pem")).unwrap();
    std::os::unix::fs::symlink("../other/server.pem", &link).unwrap();
    input.write_all(b"\n").unwrap();
    process.wait_for(&format!("again: read {}: Permission denied", link.display()));
    drop(input);
    process.wait();
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_file_in_the_root_directory_leaves_everything_readable_which_is_said_or_refused() {
    const TEST: &str =
        "sandbox_files::a_file_in_the_root_directory_leaves_everything_readable_which_is_said_or_refused";
    if !is_root() || !have("unshare") {
        return not_run(TEST, "needs root and unshare");
    }
    // A root directory of its own, in a mount name space that nobody else sees.
    let dir = scratch("root");
    for file in [&Pki::get().server.cert, &Pki::get().server.key] {
        std::fs::copy(file, dir.join(file.file_name().unwrap())).unwrap();
    }
    let started = |key: &str, sandbox: &str| {
        let name = |file: &Path| format!("/{}", file.file_name().unwrap().to_str().unwrap());
        let key = if key.is_empty() { name(&Pki::get().server.key) } else { key.to_string() };
        let script = format!(
            "cd {0} && mkdir -p bin keys lib lib64 usr dev && {{ [ -e bin/sealane ] || cp {1} bin/sealane; }} && cp {2} keys/key.pem &&\n\
             for dir in lib lib64 usr dev; do mount --rbind -o ro /$dir $dir; done &&\n\
             exec chroot . /bin/sealane server --listen 127.0.0.1:0 --connect 127.0.0.1:9 --sandbox {sandbox} \\\n\
               --log-level debug --cert {3} --key {key}",
            dir.display(),
            binary().display(),
            Pki::get().server.key.display(),
            if key.starts_with("/keys") { "/keys/cert.pem".into() } else { name(&Pki::get().server.cert) },
        );
        std::fs::create_dir_all(dir.join("keys")).unwrap();
        std::fs::copy(&Pki::get().server.cert, dir.join("keys/cert.pem")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-m", "bash", "-c", &script]).stdin(Stdio::null()).env_remove("RUST_LOG");
        Process::start(&mut command)
    };
    let auto = started("", "auto");
    auto.wait_for("listening on");
    assert_eq!(auto.count("WARN sandbox: /server.pem is in the root directory"), 1, "{}", auto.output());
    let mut on = started("", "on");
    assert_eq!(on.wait().code(), Some(1));
    on.wait_for("--sandbox on: /server.pem is in the root directory, so that every file stays readable");
    let apart = started("/keys/key.pem", "on");
    apart.wait_for("listening on");
    apart.wait_for("DEBUG sandbox: readable are [\"/keys\"]");
    assert_eq!(apart.count("root directory"), 0);
}

#[test]
fn names_are_found_once_the_configuration_that_was_missing_at_start_is_there() {
    const TEST: &str = "sandbox_files::names_are_found_once_the_configuration_that_was_missing_at_start_is_there";
    const RESOLVER: &str = "127.53.53.54";
    if !is_root() || !have("unshare") {
        return not_run(TEST, "needs root and unshare");
    }
    let Some(_asked) = dns::serve(RESOLVER) else { return not_run(TEST, "port 53 of 127.53.53.54 is in use") };
    let dir = scratch("later");
    let later = dir.join("run/resolve");
    std::fs::create_dir_all(dir.join("run")).unwrap();
    let listener = PeerListener::bind(&rustls::version::TLS13);
    let tunnel = command("auto", listener.port(), &["--sandbox", "on"]);
    let args: Vec<String> = tunnel.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let connect = format!("127.0.0.1:{}", listener.port());
    let script = format!(
        "mount -t tmpfs none /etc && echo 'hosts: dns' >/etc/nsswitch.conf &&\n\
         ln -s {}/resolv.conf /etc/resolv.conf && exec {} {}",
        later.display(),
        binary().display(),
        args.join(" ").replace(&connect, &format!("{}:{}", dns::NAME, listener.port())),
    );
    let sealane = Sealane::from_command(Command::new("unshare").args(["-m", "bash", "-c", &script]));
    std::fs::create_dir(&later).unwrap();
    std::fs::write(later.join("resolv.conf"), format!("nameserver {RESOLVER}\n")).unwrap();
    let _client = sealane.connect_and_say(&call(1, b"x"));
    let heard = std::thread::spawn(move || listener.accept_talkative().read(45));
    eventually("the name is found", || heard.is_finished());
    assert_eq!(heard.join().unwrap(), call(1, b"x"));
}

#[test]
fn names_are_found_from_inside_the_sandbox_over_udp_and_tcp() {
    const TEST: &str = "sandbox_files::names_are_found_from_inside_the_sandbox_over_udp_and_tcp";
    const RESOLVER: &str = "127.53.53.53";
    if !is_root() || !have("unshare") {
        return not_run(TEST, "needs root and unshare");
    }
    let Some(asked) = dns::serve(RESOLVER) else { return not_run(TEST, "port 53 of 127.53.53.53 is in use") };
    let dir = scratch("names");
    std::fs::write(dir.join("nsswitch.conf"), "passwd: files\ngroup: files\nhosts: dns\n").unwrap();
    for driver in DRIVERS {
        for (transport, options) in [("udp", ""), ("tcp", "options use-vc\n")] {
            std::fs::write(dir.join("resolv.conf"), format!("nameserver {RESOLVER}\n{options}")).unwrap();
            let before = (asked.udp.load(Ordering::Relaxed), asked.tcp.load(Ordering::Relaxed));
            let listener = PeerListener::bind(&rustls::version::TLS13);
            let tunnel = command(driver, listener.port(), &["--sandbox", "on", "--user", "nobody"]);
            let args = tunnel.get_args().map(|arg| arg.to_string_lossy().replace("127.0.0.1:", "ADDRESS:"));
            let args: Vec<String> = args.collect();
            let args = args.join(" ").replace("--listen ADDRESS:", "--listen 127.0.0.1:");
            // What is bound in this mount name space is seen by nobody else.
            let script = format!(
                "mount --bind {0}/resolv.conf /etc/resolv.conf && mount --bind {0}/nsswitch.conf /etc/nsswitch.conf &&\n\
                 exec {1} {2}",
                dir.display(),
                binary().display(),
                args.replace("ADDRESS:", &format!("{}:", dns::NAME)),
            );
            let sealane = Sealane::from_command(Command::new("unshare").args(["-m", "bash", "-c", &script]));
            let mut client = sealane.connect_and_say(&call(1, b"x"));
            let mut peer = listener.accept_talkative();
            assert_eq!(peer.read(45), call(1, b"x"), "{driver} {transport}");
            peer.send(&reply(1, b""));
            client.read_exact(&mut vec![0; reply(1, b"").len()]).unwrap();
            let after = (asked.udp.load(Ordering::Relaxed), asked.tcp.load(Ordering::Relaxed));
            let grown = (after.0 > before.0, after.1 > before.1);
            assert_eq!(grown, (transport == "udp", transport == "tcp"), "{driver} {transport}");
        }
    }
}
