//! What the typed calls do to names and sizes, checked on whatever server there is.

use anyhow::{Context, Result, ensure};
use sealane_selftest::client::{Create, Handle};
use sealane_selftest::nfs4::{Access, FileType, Stable, Status};
use sealane_selftest::{ClientError, Session};

/// So many that a listing takes several pages.
const FILES: usize = 40;
/// Some ten entries.
const PAGE_BYTES: u32 = 1024;
/// READ, LOOKUP, MODIFY, EXTEND, DELETE (RFC 8881 section 18.1).
const ACCESS_ALL: u32 = 0x1f;

/// Makes `directory` in the root, works in it, and removes it.
///
/// # Errors
/// A call that failed, or that did something else than it should.
pub(crate) fn run(session: &mut Session, directory: &str) -> Result<()> {
    let root = session.root().context("the root")?;
    let made = session.make_directory(&root, directory).with_context(|| format!("making the directory {directory}"))?;
    ensure!(status(session.make_directory(&root, directory)) == Some(Status::EXIST), "a directory was made twice");
    ensure!(session.access(&made, ACCESS_ALL)? == ACCESS_ALL, "no access to what was made");
    file(session, &made).context("one file")?;
    listing(session, &made).context("many files")?;
    session.remove(&root, directory).context("removing the directory")?;
    ensure!(status(session.lookup(directory)) == Some(Status::NOENT), "a removed directory is there");
    Ok(())
}

fn status<T>(result: Result<T, ClientError>) -> Option<Status> {
    result.err().and_then(|error| error.status())
}

/// From its exclusive creation to its removal.
fn file(session: &mut Session, directory: &Handle) -> Result<()> {
    let file = session.open_file(directory, "exclusive", Access::Both, Create::Exclusive(*b"verifier"))?;
    let again = session.open_file(directory, "exclusive", Access::Both, Create::Guarded);
    ensure!(status(again) == Some(Status::EXIST), "a file was created twice");
    let written = session.write(&file, 10, b"hello", Stable::Unstable)?;
    ensure!(written.count == 5, "{} of 5 bytes were written", written.count);
    ensure!(session.commit(&file.handle)? == written.verifier, "the write verifier changed");
    session.set_size(&file, 12)?;
    session.set_size(&file, 20)?;
    let mut bytes = [1; 64];
    ensure!(session.read(&file, 8, &mut bytes)? == (12, true), "12 bytes were left");
    ensure!(bytes.starts_with(b"\0\0he\0\0\0\0\0\0\0\0"), "other bytes than were written");
    let attributes = session.attributes(&file.handle)?;
    ensure!((attributes.file_type, attributes.size) == (FileType::Regular, 20), "{attributes:?}");
    session.close_file(&file)?;
    session.rename(directory, "exclusive", directory, "renamed")?;
    let opened = session.open_file(directory, "renamed", Access::Read, Create::Never)?;
    ensure!(session.attributes(&opened.handle)?.fileid == attributes.fileid, "another file has the new name");
    session.close_file(&opened)?;
    session.remove(directory, "renamed")?;
    ensure!(status(session.attributes(&file.handle)) == Some(Status::STALE), "a removed file is there");
    Ok(())
}

/// A directory that is listed in pages.
fn listing(session: &mut Session, directory: &Handle) -> Result<()> {
    let mut names: Vec<String> = (0..FILES).map(|number| format!("a-file-with-a-number-{number:03}")).collect();
    for name in &names {
        let file = session.open_file(directory, name, Access::Write, Create::Unchecked)?;
        session.close_file(&file)?;
    }
    let mut listed: Vec<_> = session.read_directory(directory, PAGE_BYTES)?.into_iter().map(|it| it.name).collect();
    names.sort();
    listed.sort();
    ensure!(names == listed, "{} of {FILES} files were listed", listed.len());
    names.iter().try_for_each(|name| session.remove(directory, name))?;
    ensure!(session.read_directory(directory, PAGE_BYTES)?.is_empty(), "removed files were listed");
    Ok(())
}
