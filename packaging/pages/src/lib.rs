//! Man pages and shell completions of `sealane`, from the definitions that its command line and its configuration files are
//! read by.
//!
//! What an option does is said in `engine/cli` only; here stands what `--help` has no place for.

#![forbid(unsafe_code)]

mod commands;
mod completions;
mod configuration;
mod page;
mod prose;

use std::fs;
use std::io;
use std::path::Path;

/// Writes `man1`, `man5` and `completions` into `directory`, which is made if it is not there.
///
/// # Errors
/// A file that cannot be written, by its name.
pub fn write(directory: &Path) -> io::Result<()> {
    for (name, text) in files()? {
        let path = directory.join(name);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

/// Each file, by its name below the directory.
fn files() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = commands::pages()?;
    files.push(("man5/sealane.toml.5".into(), configuration::page()?));
    files.extend(completions::scripts());
    Ok(files)
}
