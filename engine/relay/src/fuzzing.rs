//! What the fuzz targets run. Each function takes arbitrary bytes, does with them what they say, and panics when a
//! promise of this crate did not hold.
//!
//! They are here, so that an ordinary test replays the corpus through the same code. Nothing of the product calls them.

mod ends;
mod handshake;
mod live;
mod session;

pub use handshake::{flights, handshake, handshake_client, handshake_server};
pub use session::session;
