//! The record layer against rustls as oracle: what one seals the other opens, in both directions, both versions, all
//! three AEADs, random sizes, random cuts, keys updated in between.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{CipherSuite, ServerConnection, SupportedProtocolVersion};
use sealane_proto::limits::{BUFFER_BIG_BYTES, BUFFER_BIG_SLICES, BUFFER_SMALL_BYTES, RECORD_PLAIN_BYTES_MAX};
use sealane_proto::tls::{ContentType, Inbound, Pieces, Progress, Role, Sealer, Version, Window, key_update};

use crate::support::bytes::Random;
use crate::support::peer::{traffic_key, version_of};
use crate::support::pki::{NAME, Pki};

/// Bytes each way for every version and suite.
const STREAM_BYTES: usize = 6 << 20;

const CASES: [(&SupportedProtocolVersion, CipherSuite); 6] = [
    (&rustls::version::TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    (&rustls::version::TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    (&rustls::version::TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    (&rustls::version::TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
    (&rustls::version::TLS13, CipherSuite::TLS13_AES_256_GCM_SHA384),
    (&rustls::version::TLS13, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
];

struct Pair {
    sealer: Sealer,
    inbound: Inbound,
    kernel: KernelConnection<ClientConnectionData>,
    version: Version,
    server: ServerConnection,
    /// From the server, not yet looked at by us.
    wire: Vec<u8>,
    tickets: usize,
    key_updates: usize,
    answers_due: usize,
}

fn pair(version: &'static SupportedProtocolVersion, suite: CipherSuite) -> Pair {
    let pki = Pki::get();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(&pki.ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.enable_secret_extraction = true;
    let name = ServerName::try_from(NAME).unwrap();
    let mut client = UnbufferedClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(pki.server_config_with(version, Some(suite))).unwrap();
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    loop {
        let UnbufferedStatus { discard, state } = client.process_tls_records(&mut incoming);
        let mut done = false;
        let mut blocked = false;
        match state.unwrap() {
            ConnectionState::EncodeTlsData(mut data) => {
                let mut chunk = vec![0; 20_000];
                let length = data.encode(&mut chunk).unwrap();
                outgoing.extend_from_slice(&chunk[..length]);
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::BlockedHandshake => blocked = true,
            ConnectionState::WriteTraffic(_) => done = true,
            other => panic!("{other:?}"),
        }
        incoming.drain(..discard);
        if done || blocked {
            let mut rest = &outgoing[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().unwrap();
            }
            outgoing.clear();
            while !done && server.wants_write() {
                server.write_tls(&mut incoming).unwrap();
            }
        }
        if done {
            break;
        }
    }
    assert_eq!(server.negotiated_cipher_suite().unwrap().suite(), suite);
    let (secrets, kernel) = client.dangerous_into_kernel_connection().unwrap();
    let version = version_of(version);
    Pair {
        sealer: Sealer::new(&traffic_key(version, &secrets.tx)),
        inbound: Inbound::new(Role::Client, &traffic_key(version, &secrets.rx)),
        kernel,
        version,
        server,
        wire: incoming,
        tickets: 0,
        key_updates: 0,
        answers_due: 0,
    }
}

/// The slices of a gathered write, with the number that a real buffer has.
struct Ranges(Vec<Range<usize>>);

impl Pieces for Ranges {
    fn push(&mut self, range: Range<usize>) -> bool {
        self.0.push(range);
        self.0.len() <= BUFFER_BIG_SLICES
    }

    fn grow_last(&mut self, end: usize) {
        self.0.last_mut().unwrap().end = end;
    }
}

impl Pair {
    fn update_sending_key(&mut self, request: bool) -> Vec<u8> {
        let mut record = vec![0; 64];
        let length = self.sealer.seal_message(ContentType::HANDSHAKE, &key_update(request), &mut record).unwrap();
        record.truncate(length);
        self.sealer.rekey(&traffic_key(self.version, &self.kernel.update_tx_secret().unwrap()));
        record
    }

    /// Opens all of `self.wire`, read into `buffer` in cuts of at most `cut` bytes.
    fn open(&mut self, random: &mut Random, buffer: &mut [u8], window: &mut Window, cut: usize) -> Vec<u8> {
        let mut plain = Vec::new();
        let wire = std::mem::take(&mut self.wire);
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let plan = window.plan(buffer);
            let count = random.length(cut).min(rest.len()).min(plan.near.len() + plan.front.len());
            let (now, later) = rest.split_at(count);
            let near = count.min(plan.near.len());
            buffer[plan.near.start..plan.near.start + near].copy_from_slice(&now[..near]);
            buffer[plan.front.start..plan.front.start + count - near].copy_from_slice(&now[near..]);
            window.filled(count);
            rest = later;
            let mut pieces = Ranges(Vec::new());
            loop {
                match self.inbound.advance(buffer, window.cursor(), &mut pieces).unwrap() {
                    Progress::NeedBytes if window.next_stretch() => {}
                    Progress::NeedBytes => break,
                    Progress::Ticket(body) => {
                        self.kernel.handle_new_session_ticket(&body).unwrap();
                        self.tickets += 1;
                    }
                    Progress::KeyUpdate { answer } => {
                        self.answers_due += usize::from(answer);
                        self.inbound.rekey(&traffic_key(self.version, &self.kernel.update_rx_secret().unwrap()));
                        self.key_updates += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            for range in pieces.0 {
                plain.extend_from_slice(&buffer[range]);
            }
        }
        plain
    }

    fn flush_server(&mut self) {
        while self.server.wants_write() {
            self.server.write_tls(&mut self.wire).unwrap();
        }
    }
}

#[test]
fn rustls_opens_what_we_seal() {
    for (index, (version, suite)) in CASES.into_iter().enumerate() {
        let seed = 100 + index as u64;
        let mut random = Random::new(seed);
        let mut pair = pair(version, suite);
        let mut buffer = vec![0; BUFFER_BIG_BYTES];
        let shape = pair.sealer.shape();
        let most = shape.records_in(buffer.len()) * RECORD_PLAIN_BYTES_MAX;
        let mut moved = 0;
        let mut updates = 0;
        while moved < STREAM_BYTES {
            let length = random.length(most);
            let text = random.bytes(length);
            for ((start, length), chunk) in shape.chunks(length).zip(text.chunks(RECORD_PLAIN_BYTES_MAX)) {
                buffer[start..start + length].copy_from_slice(chunk);
            }
            let mut wire = Vec::new();
            if pair.version == Version::Tls13 && random.below(4) == 0 {
                wire = pair.update_sending_key(random.below(2) == 0);
                updates += 1;
            }
            let sealed = pair.sealer.seal(&mut buffer, length).unwrap();
            wire.extend_from_slice(&buffer[..sealed]);
            let mut opened = Vec::new();
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let cut = random.length(rest.len());
                let (mut now, later) = rest.split_at(cut);
                while !now.is_empty() {
                    pair.server.read_tls(&mut now).unwrap();
                    let state =
                        pair.server.process_new_packets().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                    let before = opened.len();
                    opened.resize(before + state.plaintext_bytes_to_read(), 0);
                    pair.server.reader().read_exact(&mut opened[before..]).unwrap();
                }
                rest = later;
            }
            assert!(opened == text, "seed {seed}: {suite:?}, {length} bytes after {moved}");
            moved += length;
        }
        assert!(pair.version == Version::Tls12 || updates > 3, "seed {seed}");
    }
}

#[test]
fn we_open_what_rustls_seals_in_every_cut_and_both_buffer_sizes() {
    for (index, (version, suite)) in CASES.into_iter().enumerate() {
        for (capacity, cut) in
            [(BUFFER_BIG_BYTES, BUFFER_BIG_BYTES), (BUFFER_BIG_BYTES, 40_000), (BUFFER_SMALL_BYTES, 20_000)]
        {
            let seed = 200 + index as u64 + cut as u64;
            let mut random = Random::new(seed);
            let mut pair = pair(version, suite);
            pair.server.set_buffer_limit(None);
            let mut buffer = vec![0; capacity];
            let mut window = Window::default();
            let mut moved = 0;
            while moved < STREAM_BYTES / 3 {
                // Many writes of one size make records of that size: tiny ones are the interesting ones.
                let (length, times) = match random.below(3) {
                    0 => (1 + random.below(40), 2000),
                    1 => (random.length(5000), 60),
                    _ => (random.length(1 << 20), 1),
                };
                let mut text = Vec::new();
                for _ in 0..times {
                    let chunk = random.bytes(length);
                    pair.server.writer().write_all(&chunk).unwrap();
                    text.extend(chunk);
                }
                if pair.version == Version::Tls13 && random.below(3) == 0 {
                    pair.server.refresh_traffic_keys().unwrap();
                }
                pair.flush_server();
                let opened = pair.open(&mut random, &mut buffer, &mut window, cut);
                assert!(opened == text, "seed {seed}: {suite:?}, {times} x {length} bytes after {moved}");
                moved += text.len();
                // rustls asks for our next key with its own; several requests get one answer.
                if std::mem::take(&mut pair.answers_due) > 0 {
                    let mut answer = &pair.update_sending_key(false)[..];
                    pair.server.read_tls(&mut answer).unwrap();
                    pair.server.process_new_packets().unwrap();
                }
            }
            let is_13 = pair.version == Version::Tls13;
            assert_eq!(pair.tickets > 0, is_13, "seed {seed}: tickets");
            assert_eq!(pair.key_updates > 0, is_13, "seed {seed}: key updates");
        }
    }
}
