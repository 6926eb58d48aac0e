//! How many TLS clients may be in their handshake at the same time, and who has to go when there are too many.
//!
//! A handshake takes an honest client a few round trips. Whoever opens connections and says little, to use up what we
//! have, would shut the others out if the limit refused the newest. So it ends the one that has got least far, and of
//! those the oldest: first the silent, then those without a whole ClientHello. To hold a place against an honest client,
//! one has to do what an honest client does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use sealane_io::rt::Signal;

/// How far a handshake has got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Not a byte has come.
    Silent,
    /// Something has come.
    Speaking,
    /// A ClientHello has come that was answered.
    Answered,
}

const STAGES: usize = 3;

/// The handshakes of one worker that are in progress.
#[derive(Clone)]
pub(crate) struct Admission {
    /// By stage; the oldest of each first.
    inside: Rc<RefCell<[VecDeque<Rc<Signal>>; STAGES]>>,
    most: usize,
}

impl Admission {
    pub(crate) fn new(most: usize) -> Self {
        Self { inside: Rc::default(), most: most.max(1) }
    }

    /// Lets one more in; if there are as many as there may be, the one that has got least far is told to go.
    pub(crate) fn enter(&self) -> Admitted {
        let signal = Rc::new(Signal::default());
        let mut inside = self.inside.borrow_mut();
        while inside.iter().map(VecDeque::len).sum::<usize>() >= self.most {
            match inside.iter_mut().find_map(VecDeque::pop_front) {
                Some(least) => least.set(),
                None => break,
            }
        }
        if let Some(silent) = inside.first_mut() {
            silent.push_back(Rc::clone(&signal));
        }
        Admitted { signal, stage: Cell::new(Stage::Silent), admission: self.clone() }
    }
}

/// One handshake in progress; dropping it makes room.
pub(crate) struct Admitted {
    signal: Rc<Signal>,
    stage: Cell<Stage>,
    admission: Admission,
}

impl Admitted {
    /// It has got as far as `stage`.
    pub(crate) fn reached(&self, stage: Stage) {
        if self.stage.replace(stage) == stage {
            return;
        }
        // One that was told to go is no longer there.
        if self.leave()
            && let Some(queue) = self.admission.inside.borrow_mut().get_mut(stage as usize)
        {
            queue.push_back(Rc::clone(&self.signal));
        }
    }

    /// Waits until it has to go. May be dropped.
    pub(crate) async fn evicted(&self) {
        self.signal.wait().await;
    }

    fn leave(&self) -> bool {
        let mut inside = self.admission.inside.borrow_mut();
        let found = inside.iter_mut().find_map(|queue| {
            let at = queue.iter().position(|other| Rc::ptr_eq(other, &self.signal))?;
            queue.remove(at)
        });
        found.is_some()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_inside(admitted: &Admitted) -> bool {
        let inside = admitted.admission.inside.borrow();
        inside.iter().flatten().any(|other| Rc::ptr_eq(other, &admitted.signal))
    }

    #[test]
    fn the_oldest_of_those_that_got_least_far_goes() {
        let admission = Admission::new(4);
        let [silent, speaking, answered, late] = std::array::from_fn(|_| admission.enter());
        answered.reached(Stage::Speaking);
        answered.reached(Stage::Answered);
        speaking.reached(Stage::Speaking);
        let fifth = admission.enter();
        assert!(!is_inside(&silent) && [&speaking, &answered, &late, &fifth].iter().all(|it| is_inside(it)));
        // One that was told to go does not come back by speaking.
        silent.reached(Stage::Speaking);
        assert!(!is_inside(&silent));
        let _sixth = admission.enter();
        assert!(!is_inside(&late) && is_inside(&fifth));
        fifth.reached(Stage::Speaking);
        let (_seventh, _eighth) = (admission.enter(), admission.enter());
        assert!(is_inside(&speaking) && is_inside(&answered) && is_inside(&fifth));
    }

    #[test]
    fn without_silent_ones_the_first_to_speak_goes_and_whoever_is_done_makes_room() {
        let admission = Admission::new(2);
        let (first, second) = (admission.enter(), admission.enter());
        first.reached(Stage::Answered);
        second.reached(Stage::Speaking);
        let third = admission.enter();
        assert!(is_inside(&first) && !is_inside(&second));
        third.reached(Stage::Answered);
        drop(first);
        let fourth = admission.enter();
        assert!(is_inside(&third) && is_inside(&fourth));
        drop((second, third, fourth));
        assert!(admission.inside.borrow().iter().all(VecDeque::is_empty));
    }
}
