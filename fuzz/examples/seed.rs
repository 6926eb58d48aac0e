//! Writes the seeds of the corpus: inputs that reach what chance would take long to find. Run it after a change to the
//! form of an input. The flights of real handshakes differ each time.
//!
//!     cargo run --manifest-path fuzz/Cargo.toml --example seed

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, parts: &[&[u8]]| {
        let directory = corpus.join(target);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(format!("seed-{name}")), parts.concat())
    };
    command_line(&write)?;
    records(&write)?;
    streams(&write)?;
    open(&write)?;
    seal(&write)?;
    handshake(&write)?;
    session(&write)?;
    xdr(&write)?;
    Ok(())
}

type Write<'w> = &'w dyn Fn(&str, &str, &[&[u8]]) -> std::io::Result<()>;

/// An RPC record in fragments of `part` bytes.
fn record(kind: u8, body: usize, part: usize) -> Vec<u8> {
    let mut message = vec![0, 0, 0, 7, 0, 0, 0, kind, 0, 0, 0, if kind == 0 { 2 } else { 0 }];
    message.resize(12 + body, 0x11);
    let count = message.len().div_ceil(part);
    let fragment = |(index, part): (usize, &[u8])| {
        let last = if index + 1 == count { 0x8000_0000 } else { 0 };
        [&(last | part.len() as u32).to_be_bytes()[..], part].concat()
    };
    message.chunks(part).enumerate().flat_map(fragment).collect()
}

fn records(write: Write<'_>) -> std::io::Result<()> {
    let stream = [record(0, 40, 4096), record(1, 12, 5), record(0, 100, 40), record(1, 8, 4096)].concat();
    write("records", "calls-and-replies", &[&[0x12, 0x34], &stream])?;
    write("records", "fragments", &[&[0, 2], &record(1, 30, 1), &record(0, 30, 3), &record(0, 30, 8)])?;
    write("records", "cut-mark", &[&[0, 3], &record(0, 40, 4096), &[0x80, 0]])?;
    write("records", "cut-fragment", &[&[0, 9], &record(1, 40, 20), &record(0, 40, 24)[..50]])?;
    write("records", "not-rpc", &[&[0, 7], &record(1, 40, 4096), b"SSH-2.0-OpenSSH_9.2\r\n"])?;
    write(
        "records",
        "wrong-version",
        &[&[0, 7], &record(0, 8, 4096), &[0x80, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3]],
    )
}

/// Calls and callbacks with their replies; see `sealane_proto::fuzzing::streams` for the acts.
fn streams(write: Write<'_>) -> std::io::Result<()> {
    // 128 is the server's side. A call of 200 bytes, 100 of it, the rest; its reply.
    let call: &[u8] = &[0, 200, 5, 100, 6, 1, 0, 131, 0, 50, 134, 1, 0];
    // The server calls back, the client answers between two calls of its own.
    let callback: &[u8] = &[128, 40, 134, 0, 200, 0, 60, 3, 0, 30, 0, 60, 5, 70, 6, 4, 0];
    let both: &[u8] = &[0, 90, 128, 90, 7, 135, 7, 135, 6, 0, 98, 134, 0, 97, 3, 0, 9, 131, 0, 9, 134, 2, 0, 6, 2, 0];
    let large: &[u8] = &[2, 0xff, 0xff, 6, 0x7f, 0xff, 6, 0xff, 0xff, 131 | 56, 0, 255, 134, 0xff, 0xff];
    for seed in 0..4 {
        let start = |name: &str, acts: &[&[u8]]| {
            write("streams", &format!("{name}-{seed}"), &[&[0, seed], acts.concat().as_slice()])
        };
        start("call", &[call])?;
        start("callback", &[call, callback])?;
        start("both", &[both, both])?;
        start("large", &[large])?;
        start("out-of-order", &[&[0, 9, 0, 9, 0, 9, 6, 2, 0, 131, 2, 9, 131, 0, 9, 133, 60, 131, 0, 9, 133, 255]])?;
    }
    for kind in 0..6 {
        write("streams", &format!("not-rpc-{kind}"), &[&[0, 2], call, &[15, kind, 7, 7, 63], callback])?;
        write("streams", &format!("not-rpc-back-{kind}"), &[&[0, 1], call, &[143, kind, 135, 135, 191], callback])?;
    }
    Ok(())
}

/// Arguments, a line each.
fn command_line(write: Write<'_>) -> std::io::Result<()> {
    let client = "client\n--connect\n127.0.0.1:2049\n--server-name\nnfs.test";
    let server = "server\n--connect\n[::1]:2049\n--cert\nleaf.pem\n--key\nleaf-key.pem";
    let more = [
        "--listen\n[::]:0\n--tls\n1.3\n--io\nepoll\n--workers\n3",
        "--memory-max\n1GiB\n--connections-max\n1000000\n--workers\n256",
        "--memory-max=18446744073709551615\n--connections-max=1",
        "--connect-timeout\n0.001\n--retry-timeout\n86400\n--keepalive\n0\n--user-timeout\n1e-3",
        "--bind-address\n2001:db8::1\n--source-port\nprivileged\n--receive-buffer\n4M\n--send-buffer\n64K",
        "--close-timeout=inf\n--half-close-timeout=-0",
        "--log-level\ntrace\n--records-per-key-max\n2",
    ];
    for (index, more) in more.iter().enumerate() {
        write("command_line", &format!("client-{index}"), &[client.as_bytes(), b"\n", more.as_bytes()])?;
        write("command_line", &format!("server-{index}"), &[server.as_bytes(), b"\n", more.as_bytes()])?;
    }
    let pem = "|-----BEGIN CERTIFICATE-----|MAo=|-----END CERTIFICATE-----|";
    for (name, arguments) in [
        ("nothing", String::new()),
        ("help", "client\n--help".into()),
        ("version", "--version".into()),
        ("demo", "demo\n--passes\n3\n--calls\n7\n--json\n--tls\n1.2\n--io\nauto".into()),
        ("identity", format!("{client}\n--ca-file\nca.pem\n--cert\nleaf.pem\n--key\nleaf-key.pem")),
        ("unverified", "client\n--connect\nnot_a/name:1\n--insecure-no-verify".into()),
        ("client-ca", format!("{server}\n--client-ca\nca.pem\n--handshakes-max\n9\n--proxy-protocol\nv2")),
        ("wrong-pem", format!("{client}\n--ca-file\n{pem}")),
        ("key-and-certificate", "server\n--connect\nh:1\n--cert\nleaf-key.pem\n--key\nleaf.pem".into()),
        ("other-key", format!("server\n--connect\nh:1\n--cert\n{pem}\n--key\nleaf-key.pem")),
        ("escape", "client\n--connect\n\u{1b}[2J:1\n--\u{7}".into()),
    ] {
        write("command_line", name, &[arguments.as_bytes()])?;
    }
    Ok(())
}

/// The six combinations of version and suite, as a script's first byte has them.
const SETUPS: [u8; 6] = [0, 1, 2, 3, 4, 5];

fn open(write: Write<'_>) -> std::io::Result<()> {
    for setup in SETUPS {
        let data: &[u8] = &[0, 9, 3, 5, 0, 200, 2, 4, 0, 3, 0, 1, 1, 2, 9, 0, 0, 0, 3, 3, 5, 1, 0];
        write("open", &format!("data-{setup}"), &[&[setup, 0x31, setup, 0, 0], data])?;
        let small = [0, 3].repeat(60);
        write("open", &format!("small-records-{setup}"), &[&[setup, 0x77, setup, 0, 0, 2, 6, 0], &small, &[5, 1, 0]])?;
        write("open", &format!("long-records-{setup}"), &[&[setup, 0x52, setup, 0, 0], &[3, 2].repeat(9), &[5, 1, 0]])?;
        write("open", &format!("last-of-a-key-{setup}"), &[&[setup | 16, 0, 9, 0, 0], &[0, 9].repeat(8)])?;
    }
    // Short records behind long ones, at the end of the buffer and at its front.
    for seed in 2..14 {
        let acts = [3, 1, 3, seed, 0, 9, 0, 7, 0, 5, 2, 5, seed, 0, 3, 0, 8].repeat(4);
        write("open", &format!("mixed-records-{seed}"), &[&[seed % 6, 0, seed, 0, 0], &acts])?;
    }
    for (name, acts) in [
        ("tickets", &[0, 1, 8, 0, 60, 0xff, 8, 15, 0, 2, 0, 4, 8, 0, 0, 1][..]),
        ("key-updates", &[0, 1, 9, 0, 0, 1, 9, 1, 0, 1, 9, 5, 2, 9, 9, 4, 0, 7]),
        ("key-update-flood", &[0, 1, 9, 0xfb, 9, 1]),
        ("ticket-and-key-update", &[7, 10, 4, 0, 0, 1, 5, 24, 0, 0, 1, 1, 0, 8]),
        ("key-update-not-last", &[7, 10, 24, 0, 0, 1, 0, 24, 0, 0, 1, 0]),
        ("interleaved", &[7, 6, 4, 0, 0, 9, 1, 1, 0, 4]),
        ("too-long-message", &[7, 4, 4, 1, 0, 1]),
        ("warnings", &[5, 1, 90, 5, 1, 90, 0, 3, 5, 1, 90, 5, 1, 90, 5, 1, 90, 5, 1, 90, 5, 1, 90]),
        ("empty-records", &[4, 31, 0, 1, 4, 32]),
        ("padding", &[12, 5, 0, 9, 12, 0, 0, 9, 12, 9, 63, 0, 0, 7, 12, 5, 0x41, 0]),
        ("fatal-alert", &[0, 4, 5, 2, 40]),
        ("changed-bit", &[0, 9, 13, 0, 0x40, 0, 9]),
        ("changed-header", &[0, 9, 13, 0, 8, 0, 9]),
        ("lost-record", &[0, 9, 14, 0, 0, 8, 0, 7]),
        ("record-twice", &[0, 9, 14, 1, 0, 7]),
        ("plain-bytes", &[0, 9, 15, 5, 23, 3, 3, 0, 16, 0, 9]),
        ("other-type", &[11, 20, 1, 1]),
        ("too-long-record", &[3, 0]),
        ("too-long-behind-a-gap", &[14, 0, 0, 9, 12, 9, 0x41, 0]),
    ] {
        write("open", name, &[&[0, 0x21, 0x43, 0, 0], acts])?;
    }
    write("open", "renegotiation", &[&[1, 0x21, 0x43, 0, 0, 0, 1, 10, 0, 0, 4, 10, 1]])?;
    write("open", "warnings-12", &[&[1, 0x21, 0x43, 0, 0, 5, 1, 112, 0, 1], &[5, 1, 112].repeat(5)])?;
    write("open", "ticket-of-a-client", &[&[8, 0x21, 0x43, 0, 0, 8, 0, 60, 0xff]])?;
    write("open", "cut-off", &[&[0, 0x21, 0x43, 0, 43, 0, 60, 0, 60, 0, 60]])
}

fn seal(write: Write<'_>) -> std::io::Result<()> {
    for setup in SETUPS {
        let calls: [&[u8]; 4] = [&[1, 0x40, 0], &[0, 5, 0], &[12, 9, 1], &[200, 3, 0]];
        write("seal", &format!("edges-{setup}"), &[&[setup], &calls.concat(), &[64, 0, 1], &[0, 13, 1]])?;
        write("seal", &format!("last-of-a-key-{setup}"), &[&[setup | 16], &[64, 0, 0].repeat(8)])?;
    }
    Ok(())
}

fn handshake(write: Write<'_>) -> std::io::Result<()> {
    for options in 0..16 {
        let name = |what: &str| format!("{what}-{options}");
        // Each end says something and closes; nothing is changed.
        let acts: &[u8] = &[0, 0, 3, 1, 40, 2, 63, 255, 7, 0, 3, 1, 50, 1, 60, 7, 0, 0, 0, 0];
        write("handshake", &name("whole"), &[&[options, 0, 0, 0], acts])?;
        write("handshake", &name("cut"), &[&[options, 0, 0x17, options], acts])?;
        // Without a change, behind the client's last flight: data, KeyUpdates whole and split, data, half of a record.
        let updates: &[u8] = &[0, 0, 0, 0, 6, 1, 9, 6, 1, 2, 5, 1, 9, 6, 0, 1, 2, 16, 0, 0, 0, 2, 5, 1, 40, 0];
        write("handshake", &name("key-updates"), &[&[options, 8, 0x52, options], updates])?;
        // The same so long that the server's first read ends between the halves of a KeyUpdate.
        let halves: &[u8] = &[0, 0, 0, 4, 2, 0x3e, 0x80, 2, 1, 0xea, 6, 1, 2, 1, 5, 0, 2, 1, 40, 7];
        write("handshake", &name("halves"), &[&[options | 32, 0, 0, 0], halves])?;
        write("handshake", &name("slow"), &[&[options | 32, 0, 0, 0], acts])?;
        // The first flights in two records each.
        write("handshake", &name("split"), &[&[options, 0, 0, 9, 6, 4, 6, 1, 6, 30, 0, 1, 1, 9]])?;
    }
    for change in 1..=5 {
        for (index, before) in [&[][..], &[0], &[0, 0]].into_iter().enumerate() {
            let name = format!("changed-{change}-{index}");
            write("handshake", &name, &[&[1, 0, 0, 9], before, &[change, 1, 0x68, 8, 22, 3, 3, 0, 3, 1, 2, 3]])?;
        }
    }
    // What real ends say, to one that is alone.
    for (name, bits) in [("13", 0), ("12", 2), ("13-mutual", 4), ("12-mutual", 6)] {
        let [hello, answer, last] = sealane_relay::fuzzing::flights(bits);
        write("handshake_server", name, &[&[bits, 0x12, 0x34], &hello])?;
        write("handshake_client", name, &[&[bits, 0x12, 0x34], &answer])?;
        write("handshake_server", &format!("{name}-last"), &[&[bits, 0x12, 0x34], &hello, &last])?;
    }
    write("handshake_client", "alert", &[&[0, 0, 9, 21, 3, 3, 0, 2, 2, 40]])?;
    write("handshake_server", "alert", &[&[0, 0, 9, 21, 3, 3, 0, 2, 2, 40]])?;
    // Half a message, and then something that is no record.
    write("handshake_client", "half-a-message", &[&[5, 0, 28, 22, 3, 1, 0, 4, 0, 51, 0, 2, 0, 23, 136]])?;
    write("handshake_server", "half-a-message", &[&[0, 0, 1, 22, 3, 1, 0, 4, 1, 0, 1, 0, 0xff, 1, 1, 1, 1]])
}

fn session(write: Write<'_>) -> std::io::Result<()> {
    for setup in [0, 1, 2, 5, 8, 9] {
        let start = |name: &str, early: u8, options: u8, acts: &[u8]| {
            write("session", &format!("{name}-{setup}"), &[&[setup, options, early], acts])
        };
        // Calls one way, data the other way, both close.
        start("both-ways", 0, 0, &[0, 0, 0x10, 3, 0, 40, 14, 0, 1, 3, 3, 4, 14, 9, 20, 0, 0x51, 3, 2, 9, 9, 14])?;
        start("cut", 0, 0, &[0, 0, 0xfc, 3, 3, 4, 7, 0, 5, 8, 0, 7, 7, 9, 9, 8, 32, 0, 9, 4, 7, 0, 80, 8, 0, 90])?;
        start("early", 40, 0, &[9, 0, 77, 0, 0, 8, 14, 3, 0, 5])?;
        start("left-over", 1, 0, &[7, 3, 4, 0, 0, 8, 14, 3, 0, 5])?;
        start("plain-first", 0, 0, &[0, 0, 0x20, 14, 10, 14, 3, 0, 77, 14, 12])?;
        start("tls-first", 0, 0, &[0, 3, 0, 77, 12, 14, 9, 9, 0, 0x20, 14, 0, 0x30])?;
        start("key-updates", 0, 0, &[0, 3, 9, 1, 3, 0, 4, 3, 9, 5, 0, 0x10, 3, 9, 9, 14, 0, 0x10, 3, 0, 8, 14])?;
        start("keys-of-two-records", 0, 1, &[0, 0, 0xfc, 14, 0, 0xfc, 3, 3, 1, 14, 0, 0xfc, 14, 3, 0, 9, 14])?;
        start("half-a-record", 0, 0, &[0, 0, 0x10, 0, 0x2a, 0x80, 0, 0, 40, 1, 14, 3, 0, 9])?;
        start("not-rpc", 0, 0, &[0, 0, 0x2a, b'S', b'S', b'H', b'-', b'2', 14, 3, 0, 9])?;
        start("changed-bit", 0, 0, &[0, 3, 0, 9, 14, 3, 13, 0, 0x40, 3, 0, 9, 0, 0x10])?;
        start("no-close-notify", 0, 0, &[0, 3, 0, 9, 14, 11, 0, 0x10])?;
        start("plain-reset", 0, 0, &[0, 3, 0, 9, 0, 0x10, 14, 13, 0xf1])?;
        start("tls-reset", 0, 0, &[0, 3, 0, 9, 0, 0x10, 14, 13, 0xf2])?;
        start("stop", 0, 0, &[0, 3, 0, 9, 0, 0x10, 14, 13, 0xf3])?;
        start("tickets", 0, 0, &[0, 3, 8, 0, 60, 0xff, 3, 8, 4, 0, 3, 3, 0, 9, 14])?;
        start("renegotiation", 0, 0, &[0, 3, 10, 0, 3, 0, 9, 14, 0, 0x10])?;
        start("flood-of-small-records", 0, 0, &[&[0][..], &[3, 0, 2].repeat(70), &[14, 9, 255]].concat())?;
    }
    Ok(())
}

fn xdr(write: Write<'_>) -> std::io::Result<()> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let items = [&words(&[7, 0, 9, 0, 8, 1])[..], b"sixsix\0\0", &words(&[3]), b"sea\0", &words(&[2, 1 << 4, 1 << 20])];
    let rest = words(&[1, 0, 0, 0, 2]);
    write("xdr", "items", &[&[0, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8], &items.concat(), &rest])?;
    write("xdr", "records", &[&[1, 0x21, 0x43], &record(0, 40, 4096), &record(1, 12, 5), &record(0, 100, 40)])?;
    write("xdr", "cut-record", &[&[1, 0, 1], &record(0, 40, 4096), &record(1, 12, 8)[..25]])?;
    write("xdr", "too-long-record", &[&[1, 0, 1], &record(0, 40, 4096), &words(&[0x8010_1001, 1])])?;
    let call = |rpc: u32, program: u32, version: u32, procedure: u32, credential: &[u32]| {
        let head = words(&[9, 0, rpc, program, version, procedure]);
        let call = [&head[..], &words(credential)].concat();
        [&[1, call.len() as u8][..], &call].concat()
    };
    let none = [0, 0, 0, 0];
    let calls = [call(2, 100_003, 4, 0, &none), call(3, 100_003, 4, 0, &none), call(2, 100_003, 3, 0, &none)];
    let more = [call(2, 100_005, 4, 0, &none), call(2, 100_003, 4, 1, &none), call(2, 100_003, 4, 0, &[6, 0, 0, 0])];
    write("xdr", "calls", &[&[2], &calls.concat(), &more.concat(), &[1, 3, 1, 2, 3]])?;
    let operation = |number: u8, arguments: &[u8]| [&[number, arguments.len() as u8], arguments].concat();
    let name = |name: &[u8; 1]| [&words(&[1])[..], name, &[0; 3]].concat();
    let create = operation(6, &[words(&[2]), name(b"d"), words(&[0, 0])].concat());
    let getattr = operation(9, &words(&[2, 0x0010_011a, 0x0030_a23a]));
    let readdir = operation(26, &words(&[0, 0, 0, 0, 4096, 4096, 1, 0x18]));
    let tree = [&[0, 3][..], &create, &getattr, &operation(10, &[]), &[0, 2], &readdir, &getattr];
    let more = [&[0, 3][..], &operation(15, &name(b"d")), &operation(16, &[]), &operation(28, &name(b"d"))];
    write("xdr", "tree", &[&[2], &tree.concat(), &more.concat(), &[2, 1], &operation(44, &[0; 16])])?;
    // Writes, a change of the size, reads; in the first block, over the edge of two, far behind the end.
    let act = |kind: u8, place: u16, length: u16| {
        let ([p, q], [l, m]) = (place.to_be_bytes(), length.to_be_bytes());
        [kind, p, q, l, m]
    };
    let (near, edge, far) = (4 * 2048, 4 * 1500 + 1, 4 * 3000 + 3);
    let first = [act(0, near, 4999), act(3, near, 4999), act(0, edge, 3000), act(3, edge, 4000), act(3, far, 9)];
    let then = [act(2, edge, 0), act(3, edge, 4999), act(0, far, 100), act(3, edge, 4999), act(0x30, near, 7)];
    write("xdr", "file", &[&[3], &first.concat(), &then.concat(), &act(0x33, near, 4000)])
}
