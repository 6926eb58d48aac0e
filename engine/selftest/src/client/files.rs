//! Typed calls about files and directories.

use super::{ClientError, Request, Results, Session};
use crate::limits::{ATTRIBUTE_BYTES_MAX, HANDLE_BYTES_MAX, OPAQUE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::nfs4::attribute::{CHANGE, FILEID, MODE, NUMLINKS, SIZE, TYPE};
use crate::nfs4::{Access, Bitmap, FileType, Operation, Stable, Stateid};
use crate::xdr::{Decoder, Encoder, XdrError};

/// What is asked for in GETATTR and READDIR.
pub(crate) const WANTED: Bitmap = Bitmap::of(&[TYPE, CHANGE, SIZE, FILEID, MODE, NUMLINKS]);

/// Entries of one directory that are listed.
const ENTRIES_MAX: usize = crate::limits::NAMES_MAX;

/// A file handle.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Handle(Box<[u8]>);

impl Handle {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
        from.opaque(HANDLE_BYTES_MAX).map(|bytes| Self(bytes.into()))
    }
}

/// A file that is open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OpenFile {
    /// The file.
    pub handle: Handle,
    /// The open.
    pub stateid: Stateid,
}

/// What a node is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attributes {
    /// The kind of node.
    pub file_type: FileType,
    /// Differs after each change.
    pub change: u64,
    /// The length in bytes.
    pub size: u64,
    /// The number of the node, as `ls -i` shows it.
    pub fileid: u64,
    /// Access rights.
    pub mode: u32,
    /// Names of the node.
    pub links: u32,
}

impl Attributes {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, ClientError> {
        let there = Bitmap::decode(from)?;
        let mut values = Decoder::new(from.opaque(ATTRIBUTE_BYTES_MAX)?);
        if there != WANTED {
            return Err(ClientError::Malformed("other attributes than those asked for"));
        }
        // In the order of their numbers.
        let (file_type, change, size) = (FileType::from_number(values.u32()?), values.u64()?, values.u64()?);
        let (fileid, mode, links) = (values.u64()?, values.u32()?, values.u32()?);
        Ok(Self { file_type, change, size, fileid, mode, links })
    }
}

/// An entry of a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// The node.
    pub attributes: Attributes,
}

/// Whether OPEN may create the file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Create {
    /// The file must be there.
    #[default]
    Never,
    /// UNCHECKED4: whether it is there or not.
    Unchecked,
    /// GUARDED4: only if it is not there.
    Guarded,
    /// EXCLUSIVE4_1: only if it is not there, or was created with the same verifier.
    Exclusive([u8; 8]),
}

/// What became of a WRITE.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Written {
    /// Bytes written, from the front.
    pub count: u32,
    /// How safe they are.
    pub stable: Stable,
    /// Another one in COMMIT says that the server has started again, and unstable bytes are lost.
    pub verifier: [u8; 8],
}

impl Written {
    pub(crate) fn decode(results: &mut Results<'_>) -> Result<Self, ClientError> {
        results.next(Operation::WRITE)?;
        let from = &mut results.from;
        Ok(Self { count: from.u32()?, stable: Stable::decode(from)?, verifier: from.fixed()? })
    }
}

fn mode_only(to: &mut Encoder, mode: u32) {
    Bitmap::of(&[MODE]).encode(to);
    to.opaque(&mode.to_be_bytes());
}

fn encode_open(request: &mut Request<'_>, client: u64, name: &str, access: Access, create: Create) {
    let out = request.operation(Operation::OPEN);
    out.words([0, access.bits(), 0]); // nothing is denied to others
    out.u64(client);
    out.opaque(b"selftest");
    match create {
        Create::Never => out.u32(0),
        Create::Unchecked | Create::Guarded => {
            out.u32(1);
            out.u32(u32::from(create == Create::Guarded));
            mode_only(out, 0o644);
        }
        Create::Exclusive(verifier) => {
            out.words([1, 3]);
            out.fixed(&verifier);
            mode_only(out, 0o644);
        }
    }
    out.u32(0); // CLAIM_NULL
    out.opaque(name.as_bytes());
}

/// The handle behind the last operation.
fn getfh(results: &mut Results<'_>) -> Result<Handle, ClientError> {
    results.next(Operation::GETFH)?;
    Ok(Handle::decode(&mut results.from)?)
}

impl Session {
    /// The root of the export.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub fn root(&mut self) -> Result<Handle, ClientError> {
        let build = |request: &mut Request<'_>| {
            request.operation(Operation::PUTROOTFH);
            request.operation(Operation::GETFH);
        };
        self.call(build, |results| {
            results.next(Operation::PUTROOTFH)?;
            getfh(results)
        })
    }

    /// What a path from the root leads to; names are separated by slashes.
    ///
    /// # Errors
    /// `NFS4ERR_NOENT` if a name is not there; [`ClientError`].
    pub fn lookup(&mut self, path: &str) -> Result<Handle, ClientError> {
        let mut found = self.root()?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let directory = found;
            let build = |request: &mut Request<'_>| {
                request.putfh(directory.bytes());
                request.operation(Operation::LOOKUP).opaque(name.as_bytes());
                request.operation(Operation::GETFH);
            };
            found = self.call(build, |results| {
                results.next(Operation::PUTFH)?;
                results.next(Operation::LOOKUP)?;
                getfh(results)
            })?;
        }
        Ok(found)
    }

    /// CREATE of a directory.
    ///
    /// # Errors
    /// `NFS4ERR_EXIST` if the name is taken; [`ClientError`].
    pub fn make_directory(&mut self, parent: &Handle, name: &str) -> Result<Handle, ClientError> {
        let build = |request: &mut Request<'_>| {
            request.putfh(parent.bytes());
            let out = request.operation(Operation::CREATE);
            out.u32(FileType::Directory.number());
            out.opaque(name.as_bytes());
            mode_only(out, 0o755);
            request.operation(Operation::GETFH);
        };
        self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            results.next(Operation::CREATE)?;
            skip_change(&mut results.from)?;
            Bitmap::decode(&mut results.from)?;
            getfh(results)
        })
    }

    /// OPEN by name.
    ///
    /// # Errors
    /// `NFS4ERR_NOENT`, `NFS4ERR_EXIST` by `create`; [`ClientError`].
    pub fn open_file(
        &mut self,
        directory: &Handle,
        name: &str,
        access: Access,
        create: Create,
    ) -> Result<OpenFile, ClientError> {
        let client = self.client;
        let build = |request: &mut Request<'_>| {
            request.putfh(directory.bytes());
            encode_open(request, client, name, access, create);
            request.operation(Operation::GETFH);
        };
        self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            results.next(Operation::OPEN)?;
            let stateid = Stateid::decode(&mut results.from)?;
            skip_change(&mut results.from)?;
            let _flags = results.from.u32()?;
            Bitmap::decode(&mut results.from)?;
            match results.from.u32()? {
                0 => {}
                // OPEN_DELEGATE_NONE_EXT: why there is none, and for two reasons a flag.
                3 if [1, 2].contains(&results.from.u32()?) => results.from.bool().map(drop)?,
                3 => {}
                _ => return Err(ClientError::Malformed("a delegation that was not asked for")),
            }
            Ok(OpenFile { stateid, handle: getfh(results)? })
        })
    }

    /// CLOSE.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn close_file(&mut self, file: &OpenFile) -> Result<(), ClientError> {
        let build = |request: &mut Request<'_>| {
            request.putfh(file.handle.bytes());
            let out = request.operation(Operation::CLOSE);
            out.u32(0);
            file.stateid.encode(out);
        };
        self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            results.next(Operation::CLOSE)
        })
    }

    /// READ into the front of `buffer`: how many bytes, and whether they reach the end of the file.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read(&mut self, file: &OpenFile, offset: u64, buffer: &mut [u8]) -> Result<(usize, bool), ClientError> {
        let count = buffer.len().min(self.payload_bytes_max());
        let build = |request: &mut Request<'_>| {
            request.putfh(file.handle.bytes());
            request.read(&file.stateid, offset, count as u32); // at most 1 MiB
        };
        let (bytes, eof) = self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            results.next(Operation::READ)?;
            let eof = results.from.bool()?;
            Ok((results.from.opaque(PAYLOAD_BYTES_MAX)?.to_vec(), eof))
        })?;
        let place = buffer.get_mut(..bytes.len()).ok_or(ClientError::Malformed("more bytes than were asked for"))?;
        place.copy_from_slice(&bytes);
        Ok((bytes.len(), eof))
    }

    /// WRITE of as much of `bytes` as one call takes.
    ///
    /// # Errors
    /// `NFS4ERR_NOSPC`; [`ClientError`].
    pub fn write(
        &mut self,
        file: &OpenFile,
        offset: u64,
        bytes: &[u8],
        stable: Stable,
    ) -> Result<Written, ClientError> {
        let payload = bytes.get(..self.payload_bytes_max()).unwrap_or(bytes);
        let build = |request: &mut Request<'_>| {
            request.putfh(file.handle.bytes());
            request.write(&file.stateid, offset, stable.number(), payload.len() as u32); // at most 1 MiB
            request.out.fixed(payload);
        };
        self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            Written::decode(results)
        })
    }

    /// COMMIT of a whole file; its verifier must be that of the WRITEs.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn commit(&mut self, file: &Handle) -> Result<[u8; 8], ClientError> {
        let build = |request: &mut Request<'_>| {
            request.putfh(file.bytes());
            let out = request.operation(Operation::COMMIT);
            out.u64(0);
            out.u32(0);
        };
        self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            results.next(Operation::COMMIT)?;
            Ok(results.from.fixed()?)
        })
    }

    /// GETATTR.
    ///
    /// # Errors
    /// `NFS4ERR_STALE` if it was removed; [`ClientError`].
    pub fn attributes(&mut self, node: &Handle) -> Result<Attributes, ClientError> {
        let build = |request: &mut Request<'_>| {
            request.putfh(node.bytes());
            WANTED.encode(request.operation(Operation::GETATTR));
        };
        self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            decode_getattr(results)
        })
    }

    /// SETATTR of the size.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn set_size(&mut self, file: &OpenFile, size: u64) -> Result<(), ClientError> {
        let build = |request: &mut Request<'_>| {
            request.putfh(file.handle.bytes());
            let out = request.operation(Operation::SETATTR);
            file.stateid.encode(out);
            Bitmap::of(&[SIZE]).encode(out);
            out.opaque(&size.to_be_bytes());
        };
        self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            results.next(Operation::SETATTR)
        })
    }

    /// ACCESS: which of the `asked` bits (RFC 8881 section 18.1) are granted.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn access(&mut self, node: &Handle, asked: u32) -> Result<u32, ClientError> {
        let build = |request: &mut Request<'_>| {
            request.putfh(node.bytes());
            request.operation(Operation::ACCESS).u32(asked);
        };
        self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            results.next(Operation::ACCESS)?;
            let _supported = results.from.u32()?;
            Ok(results.from.u32()?)
        })
    }

    /// All of a directory, by as many READDIRs of at most `page_bytes` as it takes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read_directory(&mut self, directory: &Handle, page_bytes: u32) -> Result<Vec<Entry>, ClientError> {
        let (mut entries, mut cookie, mut verifier) = (Vec::new(), 0, [0; 8]);
        loop {
            let build = |request: &mut Request<'_>| {
                request.putfh(directory.bytes());
                let out = request.operation(Operation::READDIR);
                out.u64(cookie);
                out.fixed(&verifier);
                out.words([page_bytes, page_bytes]);
                WANTED.encode(out);
            };
            let page = self.call(build, decode_readdir)?;
            verifier = page.verifier;
            if page.eof {
                entries.extend(page.entries);
                return Ok(entries);
            }
            cookie = page.cookie;
            if page.entries.is_empty() || entries.len() > ENTRIES_MAX {
                return Err(ClientError::Malformed("a directory without end"));
            }
            entries.extend(page.entries);
        }
    }

    /// REMOVE of a file or an empty directory.
    ///
    /// # Errors
    /// `NFS4ERR_NOENT`, `NFS4ERR_NOTEMPTY`; [`ClientError`].
    pub fn remove(&mut self, directory: &Handle, name: &str) -> Result<(), ClientError> {
        let build = |request: &mut Request<'_>| {
            request.putfh(directory.bytes());
            request.operation(Operation::REMOVE).opaque(name.as_bytes());
        };
        self.call(build, |results| {
            results.next(Operation::PUTFH)?;
            results.next(Operation::REMOVE)
        })
    }

    /// RENAME of `old` in `from` to `new` in `to`.
    ///
    /// # Errors
    /// `NFS4ERR_NOENT`, `NFS4ERR_EXIST`; [`ClientError`].
    pub fn rename(&mut self, from: &Handle, old: &str, to: &Handle, new: &str) -> Result<(), ClientError> {
        let build = |request: &mut Request<'_>| {
            request.putfh(from.bytes());
            request.operation(Operation::SAVEFH);
            request.putfh(to.bytes());
            let out = request.operation(Operation::RENAME);
            out.opaque(old.as_bytes());
            out.opaque(new.as_bytes());
        };
        self.call(build, |results| {
            [Operation::PUTFH, Operation::SAVEFH, Operation::PUTFH].iter().try_for_each(|step| results.next(*step))?;
            results.next(Operation::RENAME)
        })
    }
}

/// Steps over `change_info4`.
fn skip_change(from: &mut Decoder<'_>) -> Result<(), XdrError> {
    let (_atomic, _before, _after) = (from.bool()?, from.u64()?, from.u64()?);
    Ok(())
}

/// The result of the GETATTR that asks for [`WANTED`].
pub(crate) fn decode_getattr(results: &mut Results<'_>) -> Result<Attributes, ClientError> {
    results.next(Operation::GETATTR)?;
    Attributes::decode(&mut results.from)
}

/// What one READDIR brought.
struct Page {
    verifier: [u8; 8],
    entries: Vec<Entry>,
    /// Where the next page begins.
    cookie: u64,
    eof: bool,
}

fn decode_readdir(results: &mut Results<'_>) -> Result<Page, ClientError> {
    results.next(Operation::PUTFH)?;
    results.next(Operation::READDIR)?;
    let from = &mut results.from;
    let mut page = Page { verifier: from.fixed()?, entries: Vec::new(), cookie: 0, eof: false };
    while from.bool()? {
        page.cookie = from.u64()?;
        let name = String::from_utf8_lossy(from.opaque(OPAQUE_BYTES_MAX)?).into_owned();
        page.entries.push(Entry { name, attributes: Attributes::decode(from)? });
    }
    page.eof = from.bool()?;
    Ok(page)
}
