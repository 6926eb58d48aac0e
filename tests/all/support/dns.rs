//! A name server that knows one name: over UDP, or over TCP only for those who ask for more than fits.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The name, which is 127.0.0.1.
pub const NAME: &str = "nfs.sandbox.test";

/// How often each transport was asked.
#[derive(Default)]
pub struct Asked {
    pub udp: AtomicUsize,
    pub tcp: AtomicUsize,
}

/// Answers on port 53 of `address` until the program ends; `None` when that port is not to be had.
pub fn serve(address: &str) -> Option<Arc<Asked>> {
    let udp = UdpSocket::bind((address, 53)).ok()?;
    let tcp = TcpListener::bind((address, 53)).ok()?;
    let asked = Arc::new(Asked::default());
    let (by_udp, by_tcp) = (Arc::clone(&asked), Arc::clone(&asked));
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut query) {
            by_udp.udp.fetch_add(1, Ordering::Relaxed);
            let _ = udp.send_to(&answer(&query[..length]), from);
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            let by_tcp = Arc::clone(&by_tcp);
            std::thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; u16::from_be_bytes(length).into()];
                    if stream.read_exact(&mut query).is_err() {
                        return;
                    }
                    by_tcp.tcp.fetch_add(1, Ordering::Relaxed);
                    let answer = answer(&query);
                    let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
                    let _ = stream.write_all(&framed);
                }
            });
        }
    });
    Some(asked)
}

/// The answer to a query: one A record for the name, nothing for any other question (RFC 1035 section 4.1).
fn answer(query: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    const A: [u8; 4] = [0, 1, 0, 1];
    let name: Vec<u8> = NAME.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    let question_end = query[HEADER..].iter().position(|byte| *byte == 0).map_or(query.len(), |zero| HEADER + zero + 5);
    let question = &query[HEADER..question_end];
    let is_ours = question.to_ascii_lowercase().starts_with(&name) && question.ends_with(&A);
    let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_ours), 0, 0, 0, 0], question].concat();
    if is_ours {
        // A pointer to the name in the question, A, IN, a minute, four bytes.
        answer.extend([&[0xc0, HEADER as u8], &A[..], &[0, 0, 0, 60, 0, 4, 127, 0, 0, 1]].concat());
    }
    answer
}
