//! Writing to a socket from several places in memory.

use std::io::{self, IoSlice, Write};
use std::net::TcpStream;

/// The most slices in one write: a READ of 1 MiB has two of them for its payload, and heads around them.
const SLICES_MAX: usize = 64;

/// Writes all slices.
pub(crate) fn write_all_vectored(mut stream: &TcpStream, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0); // without the empty ones
    while !slices.is_empty() {
        match stream.write_vectored(slices.get(..SLICES_MAX).unwrap_or(slices)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
