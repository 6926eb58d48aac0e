//! Another process takes the place of this one, as soon as it is ready; until then this one goes on.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use sealane_io::handover::{Control, Successor};
use sealane_io::net::Acceptor;
use sealane_io::rt;
use sealane_io::supervisor::Supervisor;

use crate::entrance::Entrance;

/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for a process that has been given the sockets and says that it is ready; with its number. Without `control` nobody
/// comes.
pub(crate) async fn is_ready(
    control: Option<&Control>,
    doors: &[(Rc<Acceptor>, Rc<Entrance>)],
    supervisor: Option<&Supervisor>,
) -> (Successor, u32) {
    let Some(control) = control else { return std::future::pending().await };
    let listeners: Vec<_> =
        doors.iter().map(|(acceptor, entrance)| (entrance.config.listen, acceptor.as_fd())).collect();
    loop {
        let mut successor = match control.next().await {
            Ok(successor) => successor,
            Err(error) => {
                tracing::warn!("the control socket: {error}");
                rt::sleep(PAUSE).await;
                continue;
            }
        };
        match control.give(&mut successor, &listeners, supervisor).await {
            Ok(pid) => {
                tracing::info!("process {pid} is ready to go on in the place of this one");
                return (successor, pid);
            }
            Err(error) => {
                tracing::warn!("process {} does not take the place of this one, which goes on: {error}", successor.pid);
            }
        }
    }
}
