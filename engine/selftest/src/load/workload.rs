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
