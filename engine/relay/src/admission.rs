//! How many TLS clients may be in their handshake at the same time: the newest, because the slow ones are the oldest.
//!
//! A handshake takes an honest client a few milliseconds. Whoever opens connections and says little, to use up what we
//! have, would shut the others out if the limit refused the newest; so the oldest has to go.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use sealane_io::rt::Signal;

/// The handshakes of one worker that are in progress.
#[derive(Clone)]
pub(crate) struct Admission {
    /// The oldest first.
    inside: Rc<RefCell<VecDeque<Rc<Signal>>>>,
    most: usize,
}

impl Admission {
    pub(crate) fn new(most: usize) -> Self {
        Self { inside: Rc::default(), most: most.max(1) }
    }

    /// Lets one more in; if there are as many as there may be, the oldest is told to go.
    pub(crate) fn enter(&self) -> Admitted {
        let signal = Rc::new(Signal::default());
        let mut inside = self.inside.borrow_mut();
        while inside.len() >= self.most {
            if let Some(oldest) = inside.pop_front() {
                oldest.set();
            }
        }
        inside.push_back(Rc::clone(&signal));
        Admitted { signal, admission: self.clone() }
    }
}

/// One handshake in progress; dropping it makes room.
pub(crate) struct Admitted {
    signal: Rc<Signal>,
    admission: Admission,
}

impl Admitted {
    /// Waits until it has to go. May be dropped.
    pub(crate) async fn evicted(&self) {
        self.signal.wait().await;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.inside.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.signal));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(admission: &Admission) -> usize {
        admission.inside.borrow().len()
    }

    #[test]
    fn the_oldest_goes_and_whoever_is_done_makes_room() {
        let admission = Admission::new(2);
        let (first, second) = (admission.enter(), admission.enter());
        let evicted =
            |admitted: &Admitted| !admission.inside.borrow().iter().any(|it| Rc::ptr_eq(it, &admitted.signal));
        assert!(!evicted(&first) && !evicted(&second));
        let third = admission.enter();
        assert!(evicted(&first) && !evicted(&second) && !evicted(&third));
        drop(second);
        assert_eq!(inside(&admission), 1);
        let fourth = admission.enter();
        assert!(!evicted(&third) && !evicted(&fourth));
        drop((first, third, fourth));
        assert_eq!(inside(&admission), 0);
    }
}
