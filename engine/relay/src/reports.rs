//! What whoever supervises the process hears of it.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use sealane_io::rt;
use sealane_io::supervisor::Supervisor;

const READY: &str = "READY=1\nSTATUS=serving";

/// The reports of a process; without a supervisor nobody reads them.
#[derive(Default)]
pub(crate) struct Reports {
    supervisor: OnceCell<Supervisor>,
    /// So many tunnels are reading their files again.
    reloading: Cell<usize>,
    /// Another process is the one that it hears of.
    is_replaced: Cell<bool>,
}

impl Reports {
    /// Somebody wants to hear them.
    pub(crate) fn begin(&self, supervisor: Supervisor) {
        // There is one for a process.
        let _ = self.supervisor.set(supervisor);
    }

    fn say(&self, lines: &str) {
        if let Some(supervisor) = self.supervisor.get()
            && !self.is_replaced.get()
        {
            supervisor.say(lines);
        }
    }

    /// Says that all is served; from then on, as often as that is wanted, that all `is_well`, while it is.
    pub(crate) async fn ready(self: Rc<Self>, is_well: impl Fn() -> bool) {
        self.say(READY);
        let Some(pause) = self.supervisor.get().and_then(Supervisor::watchdog_pause) else { return };
        while is_well() {
            self.say("WATCHDOG=1");
            rt::sleep(pause).await;
        }
    }

    /// Says that files are read again while `reload` does that, for one tunnel.
    pub(crate) async fn reloading<T>(&self, reload: impl Future<Output = T>) -> T {
        if self.reloading.replace(self.reloading.get() + 1) == 0
            && let Some(supervisor) = self.supervisor.get()
            && !self.is_replaced.get()
        {
            supervisor.say_reloading();
        }
        let done = reload.await;
        self.reloading.set(self.reloading.get().saturating_sub(1));
        if self.reloading.get() == 0 {
            self.say(READY);
        }
        done
    }

    /// Whoever hears them.
    pub(crate) fn supervisor(&self) -> Option<&Supervisor> {
        self.supervisor.get().filter(|supervisor| supervisor.is_there())
    }

    /// Says which process is the one to be supervised from now on: this one says nothing more.
    pub(crate) fn replaced(&self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
        self.is_replaced.set(true);
    }

    /// Says that nothing new is served any more.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping");
    }
}
