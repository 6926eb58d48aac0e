//! The whole course: write, COMMIT, read back and compare, GETATTR.

use super::{File, Kind, Load, LoadError, Outcome, Progress, Until, run};
use crate::client::{Create, Handle, Session};
use crate::nfs4::{Access, Status};

/// How much is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    /// The directory in the root that the files are made in; it is made if it is not there, and removed at the end.
    pub directory: String,
    /// Files.
    pub files: u32,
    /// The length of each, a multiple of `payload_bytes`.
    pub file_bytes: u64,
    /// How often everything is written and read; each time with other bytes.
    pub passes: u32,
    /// Bytes of each WRITE and READ.
    pub payload_bytes: u32,
    /// WRITEs or READs outstanding on each connection.
    pub depth: usize,
    /// GETATTRs one at a time, and again as many `getattr_depth` at a time.
    pub getattr_calls: u64,
    /// See there.
    pub getattr_depth: usize,
}

impl Default for Workload {
    /// 8 files of 8 MiB in 16 passes, 1 GiB each way, 4 payloads of 1 MiB at a time; 10,000 GETATTRs, and as many 16 at a
    /// time.
    fn default() -> Self {
        Self {
            directory: "selftest".into(),
            files: 8,
            file_bytes: 8 << 20,
            passes: 16,
            payload_bytes: 1 << 20,
            depth: 4,
            getattr_calls: 10_000,
            getattr_depth: 16,
        }
    }
}

/// What a workload did.
#[derive(Clone, Debug)]
pub struct Report {
    /// All WRITEs; their time is that of the WRITEs alone, without COMMIT.
    pub write: Outcome,
    /// All READs, compared.
    pub read: Outcome,
    /// GETATTRs one at a time.
    pub getattr_one: Outcome,
    /// GETATTRs many at a time.
    pub getattr_many: Outcome,
}

impl Workload {
    /// The payload bytes of all WRITEs, and of all READs.
    pub const fn bytes(&self) -> u64 {
        self.files as u64 * self.file_bytes * self.passes as u64
    }

    /// The calls that [`Progress`] counts up to on one connection.
    pub const fn calls(&self) -> u64 {
        2 * self.bytes() / self.payload_bytes as u64 + 2 * self.getattr_calls
    }

    /// Does everything, from making the files to removing them.
    ///
    /// # Errors
    /// The first failure: a byte that came back wrong is [`LoadError::Differs`], with file, offset and pass. The files
    /// are left as they are then.
    pub fn run(&self, session: &mut Session, progress: &Progress) -> Result<Report, LoadError> {
        let files = self.prepare(session)?;
        let (mut write, mut read) = (Outcome::nothing()?, Outcome::nothing()?);
        for pass in 0..self.passes {
            write.add(&files.write(session, pass, progress)?)?;
            read.add(&files.read(session, pass, progress)?)?;
        }
        let getattr_one = files.getattr(session, 1, self.getattr_calls, progress)?;
        let getattr_many = files.getattr(session, self.getattr_depth, self.getattr_calls, progress)?;
        files.remove(session)?;
        Ok(Report { write, read, getattr_one, getattr_many })
    }

    /// Makes the directory and the files, and opens them.
    ///
    /// # Errors
    /// The first call that failed.
    pub fn prepare(&self, session: &mut Session) -> Result<Prepared<'_>, LoadError> {
        let root = session.root()?;
        let directory = match session.make_directory(&root, &self.directory) {
            Err(error) if error.status() == Some(Status::EXIST) => session.lookup(&self.directory)?,
            other => other?,
        };
        let mut files = Vec::new();
        for number in 0..self.files {
            let open = session.open_file(&directory, &name(number), Access::Both, Create::Unchecked)?;
            files.push(File { number, open });
        }
        Ok(Prepared { workload: self, root, directory, files })
    }
}

fn name(number: u32) -> String {
    format!("file-{number}")
}

/// The files of a workload, open: its steps, for who wants to take them one at a time.
#[derive(Clone, Debug)]
pub struct Prepared<'w> {
    workload: &'w Workload,
    root: Handle,
    directory: Handle,
    files: Vec<File>,
}

impl Prepared<'_> {
    fn load(&self, kind: Kind, depth: usize, calls: u64) -> Load<'_> {
        let Workload { file_bytes, payload_bytes, .. } = *self.workload;
        Load { kind, files: &self.files, file_bytes, payload_bytes, depth, until: Until::Calls(calls) }
    }

    fn payloads(&self) -> u64 {
        self.files.len() as u64 * (self.workload.file_bytes / u64::from(self.workload.payload_bytes).max(1))
    }

    /// The files, for a [`Load`] of another kind or length.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Writes all of the files once, with the pattern of `pass`, and COMMITs each.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn write(&self, session: &mut Session, pass: u32, progress: &Progress) -> Result<Outcome, LoadError> {
        let load = self.load(Kind::Write { pass }, self.workload.depth, self.payloads());
        let written = run(session, &load, progress)?;
        for file in &self.files {
            let committed = session.commit(&file.open.handle)?;
            if written.verifier != Some(committed) {
                return Err(LoadError::VerifierChanged);
            }
        }
        Ok(written)
    }

    /// Reads all of the files once, and compares with the pattern of `pass`.
    ///
    /// # Errors
    /// [`LoadError::Differs`]; [`LoadError`].
    pub fn read(&self, session: &mut Session, pass: u32, progress: &Progress) -> Result<Outcome, LoadError> {
        let kind = Kind::Read { verify: Some(pass) };
        run(session, &self.load(kind, self.workload.depth, self.payloads()), progress)
    }

    /// Asks for the attributes of the files in turn, `depth` calls at a time.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn getattr(
        &self,
        session: &mut Session,
        depth: usize,
        calls: u64,
        progress: &Progress,
    ) -> Result<Outcome, LoadError> {
        run(session, &self.load(Kind::Getattr, depth, calls), progress)
    }

    /// Closes the files, and leaves them where they are.
    ///
    /// # Errors
    /// The first call that failed.
    pub fn close(&self, session: &mut Session) -> Result<(), LoadError> {
        Ok(self.files.iter().try_for_each(|file| session.close_file(&file.open))?)
    }

    /// Closes and removes the files and the directory, if nothing else is in it.
    ///
    /// # Errors
    /// The first call that failed.
    pub fn remove(self, session: &mut Session) -> Result<(), LoadError> {
        for file in &self.files {
            session.close_file(&file.open)?;
            session.remove(&self.directory, &name(file.number))?;
        }
        match session.remove(&self.root, &self.workload.directory) {
            Err(error) if error.status() != Some(Status::NOTEMPTY) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;

    use super::*;
    use crate::client::SessionOptions;
    use crate::limits::TAG_BYTES_MAX;
    use crate::nfs4::{Operation, PROCEDURE_COMPOUND, SessionId};
    use crate::rpc::{CallHeader, RecordReader};
    use crate::server::{Server, ServerOptions};
    use crate::stream::write_all_vectored;
    use crate::xdr::{Decoder, XdrError};

    /// The operation behind SEQUENCE and PUTFH.
    fn third_operation(call: &[u8]) -> Result<Operation, XdrError> {
        let mut from = Decoder::new(call);
        let header = CallHeader::decode(&mut from).map_err(|_| XdrError::Truncated)?;
        let (_tag, _minor, _count) = (from.opaque(TAG_BYTES_MAX)?, from.u32()?, from.u32()?);
        let (first, _session) = (from.u32()?, from.fixed::<{ size_of::<SessionId>() }>()?);
        let (_sequence, _slot, _highest, _cache_this) = (from.u32()?, from.u32()?, from.u32()?, from.u32()?);
        let (second, _handle) = (from.u32()?, from.opaque(128)?);
        let begins_so = [first, second] == [Operation::SEQUENCE.0, Operation::PUTFH.0];
        let found = if begins_so { Operation(from.u32()?) } else { Operation::ILLEGAL };
        Ok(if header.procedure == PROCEDURE_COMPOUND { found } else { Operation::ILLEGAL })
    }

    /// Stands before a server that seems to have started again after so many WRITEs and COMMITs: the verifier, which is
    /// the end of the replies to them, is another one from there on.
    fn restarting(server: SocketAddr, after: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (client, server) = (listener.accept().unwrap().0, TcpStream::connect(server).unwrap());
            let (mut calls, mut replies, mut seen) = (RecordReader::new(), RecordReader::new(), 0);
            let send = |to: &TcpStream, record: &[u8]| {
                let mark = (record.len() as u32 | 1 << 31).to_be_bytes();
                write_all_vectored(to, &mut [IoSlice::new(&mark), IoSlice::new(record)])
            };
            while let Ok(Some(call)) = calls.record(&mut &client) {
                let has_verifier = matches!(third_operation(call), Ok(Operation::WRITE | Operation::COMMIT));
                send(&server, call).unwrap();
                let Ok(Some(reply)) = replies.record(&mut &server) else { return };
                let mut reply = reply.to_vec();
                seen += usize::from(has_verifier);
                if has_verifier && seen > after {
                    *reply.last_mut().unwrap() ^= 1;
                }
                // A client that has seen enough is gone.
                if send(&client, &reply).is_err() {
                    return;
                }
            }
        });
        address
    }

    #[test]
    fn a_server_that_starts_again_between_a_write_and_its_commit_is_noticed() {
        let server = Server::start(&ServerOptions::default()).unwrap();
        let workload = Workload { files: 2, file_bytes: 8192, payload_bytes: 4096, depth: 2, ..Workload::default() };
        // Two WRITEs and a COMMIT of each file.
        for after in 0..=6 {
            let address = restarting(server.local_address(), after);
            let mut session = Session::open(address, &SessionOptions::default()).unwrap();
            let files = workload.prepare(&mut session).unwrap();
            let written = files.write(&mut session, 0, &Progress::default());
            match after {
                // All of it happened after the start, or before.
                0 | 6 => assert_eq!(written.unwrap().calls, 4, "after {after}"),
                _ => assert!(matches!(written, Err(LoadError::VerifierChanged)), "after {after}: {written:?}"),
            }
        }
    }
}
