//! The operations, each a method of [`Compound`](super::compound::Compound): takes its arguments off the request,
//! acts, writes its result.

mod directory;
mod file;
mod handle;
mod open;
mod session;
