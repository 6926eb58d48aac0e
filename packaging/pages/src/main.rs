//! `sealane-pages DIR`: writes man pages and shell completions into that directory.

#![forbid(unsafe_code)]

use std::env::args_os;
use std::io::{Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = args_os().skip(1).collect();
    let (reason, status) = match words.as_slice() {
        [directory] if !directory.as_encoded_bytes().starts_with(b"-") => {
            match sealane_pages::write(&PathBuf::from(directory)) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => (error.to_string(), 1),
            }
        }
        _ => ("usage: sealane-pages DIR (writes man1, man5 and completions into it)".to_string(), 2),
    };
    // Whether anybody reads it or not, the status says it too.
    let _ = writeln!(stderr(), "sealane-pages: {reason}");
    ExitCode::from(status)
}
